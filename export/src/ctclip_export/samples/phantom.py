"""A chest drawn from ellipsoids: parity checks and warm-up need anatomy, never a patient's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctclip_client import Volume
from ctclip_client.contract import Geometry

_AIR_HU, _TISSUE_HU, _LUNG_HU, _BLOOD_HU, _BONE_HU = -1000, 40, -860, 90, 500
# Share of the field of view that the phantom covers along (z, x, y): padded, cropped, padded.
_COVERAGE = (0.9, 1.1, 0.8)
# Source voxels are this much wider than the model's, and not by a whole number.
_COARSENESS = (1.7, 2.3, 2.3)


def chest_phantom(geometry: Geometry, seed: int = 0) -> Volume:
    """A noisy chest with lungs, heart, spine, ribs, vessels and nodules, different for each seed.

    It fills 90 %, 110 % and 80 % of the field of view along z, x and y, so that both cropping and
    padding happen.
    """
    random = np.random.default_rng(seed)
    spacing = tuple(
        round(target * coarse, 3)
        for target, coarse in zip(geometry.target_spacing_mm, _COARSENESS, strict=True)
    )
    shape = tuple(
        max(round(size * cover / coarse), 2)
        for size, cover, coarse in zip(geometry.volume_shape, _COVERAGE, _COARSENESS, strict=True)
    )
    hu = _anatomy(shape, random) + random.normal(0, 25, shape)
    stored = np.clip(hu + 1024, 0, 4095).astype(np.int16)
    return Volume.from_array(stored, (spacing[0], spacing[1], spacing[2]), (1.0, -1024.0))


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
