"""A chest drawn from ellipsoids: checks and warm-up need anatomy, never a patient's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctclip_client.volume import Source, Volume

_AIR_HU, _TISSUE_HU, _LUNG_HU, _BLOOD_HU, _BONE_HU = -1000, 40, -860, 90, 500


def small_phantom() -> Volume:
    """A chest of (32, 48, 48) int16 at 9 × 7.5 × 7.5 mm: 288 × 360 × 360 mm, 147 kB.

    The server resamples it to its own grid, so its work is that of any scan, and only the
    transport is spared. Always the same one. Self-checks carry their own copy of what this was when
    they were made, so drawing it otherwise leaves exported releases as they are.
    """
    return draw_chest((32, 48, 48), (9.0, 7.5, 7.5), seed=0)


def draw_chest(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], seed: int
) -> Volume:
    """A noisy chest with lungs, heart, spine, ribs, vessels and nodules, different for each seed.

    shape: (z, x, y) voxels of int16.
    """
    random = np.random.default_rng(seed)
    hu = _anatomy(shape, random) + random.normal(0, 25, shape)
    voxels = np.clip(hu + 1024, 0, 4095).astype(np.int16)
    return Volume(voxels, spacing_mm, (1.0, -1024.0), Source(hu_source="a phantom"))


def _anatomy(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
    """Hounsfield units (z, x, y) without noise. Coordinates run from −1 to 1 along each axis."""
    z, x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)

    def ellipsoid(centre: NDArray[np.float64], radius: NDArray[np.float64]) -> NDArray[np.bool_]:
        parts = zip((z, x, y), centre, radius, strict=True)
        inside: NDArray[np.bool_] = sum(((a - c) / r) ** 2 for a, c, r in parts) < 1
        return inside

    hu = np.full(shape, float(_AIR_HU))
    body = (x / 0.85) ** 2 + (y / 0.75) ** 2 < 1
    hu[np.broadcast_to(body, shape)] = _TISSUE_HU
    lungs = np.zeros(shape, bool)
    for side in (-1, 1):
        lungs |= ellipsoid(np.array([0, 0.4 * side, 0]), np.array([0.9, 0.33, 0.5]))
    hu[lungs] = _LUNG_HU
    hu[ellipsoid(np.array([-0.3, 0.12, -0.15]), np.array([0.4, 0.3, 0.28]))] = _BLOOD_HU
    spine = x**2 + (y - 0.5) ** 2 < 0.1**2
    hu[np.broadcast_to(spine, shape)] = _BONE_HU
    ring = np.abs((x / 0.8) ** 2 + (y / 0.7) ** 2 - 1) < 0.06
    hu[ring & (np.sin(z * 25) > 0.6)] = _BONE_HU
    for _ in range(24):
        vessel = ellipsoid(random.uniform(-0.6, 0.6, 3), random.uniform(0.02, 0.15, 3))
        hu[vessel & lungs] = _BLOOD_HU
    return hu
