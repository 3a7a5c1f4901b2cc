"""A chest drawn from ellipses, for canaries: anatomy, and never a patient's."""

from __future__ import annotations

import numpy as np

from ctclip_client.volume import Source, Volume

SHAPE = (32, 48, 48)
SPACING_MM = (9.0, 7.5, 7.5)
_AIR_HU, _TISSUE_HU, _LUNG_HU, _BONE_HU = -1000.0, 40.0, -860.0, 500.0
_NOISE_HU = 20.0


def canary_volume() -> Volume:
    """A small noisy chest, (32, 48, 48) int16 at 9 × 7.5 × 7.5 mm: 288 × 360 × 360 mm, 147 kB.

    The server resamples it to its own grid, so its work is that of any scan, and only the
    transport is spared. Always the same one.
    """
    z, x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij", sparse=True)
    hu = np.full(SHAPE, _AIR_HU)
    hu[np.broadcast_to((x / 0.85) ** 2 + (y / 0.7) ** 2 < 1, SHAPE)] = _TISSUE_HU
    for side in (-0.42, 0.42):
        hu[(z / 0.9) ** 2 + ((x - side) / 0.32) ** 2 + (y / 0.5) ** 2 < 1] = _LUNG_HU
    hu[np.broadcast_to(x**2 + (y - 0.5) ** 2 < 0.12**2, SHAPE)] = _BONE_HU
    hu += np.random.default_rng(0).normal(0, _NOISE_HU, SHAPE)
    voxels = np.rint(hu + 1024).astype(np.int16)
    return Volume(voxels, SPACING_MM, (1.0, -1024.0), Source(hu_source="a phantom"))
