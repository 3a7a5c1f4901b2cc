"""Seeded variations of one CT: shifted, rotated, rescaled, noisy.

They stand in for the many patients that a demo and a parity check do not have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ctclip_client import Volume

_AIR_HU = -1000.0


def vary(volume: Volume, seed: int) -> Volume:
    """A new volume: turned about z by up to 10°, shifted in the plane by up to 6 %, voxels larger
    or smaller by up to 10 %, with noise of 5 to 30 HU. The original is left as it is.
    """
    random = np.random.default_rng(seed)
    slope, intercept = volume.rescale
    air = (_AIR_HU - intercept) / slope
    voxels = _turn_and_shift(
        volume.voxels,
        angle=math.radians(random.uniform(-10, 10)),
        shift=(random.uniform(-0.06, 0.06), random.uniform(-0.06, 0.06)),
        fill=air,
    )
    voxels += random.standard_normal(voxels.shape, np.float32) * (
        random.uniform(5, 30) / abs(slope)
    )
    limits = np.iinfo(np.int16)
    stored = np.clip(np.rint(voxels), limits.min, limits.max).astype(np.int16)
    scale = random.uniform(0.9, 1.1)
    z, x, y = (edge * scale for edge in volume.spacing_mm)
    return Volume.from_array(stored, (z, x, y), volume.rescale)


def thinned(volume: Volume, spacing_mm: Sequence[float]) -> Volume:
    """Every n-th voxel along each axis, no farther apart than `spacing_mm` (z, x, y).

    What a network on that grid can tell apart is still there, and varying it costs a share. The
    same volume where nothing can be left out.
    """
    nz, nx, ny = (
        max(int(wanted / edge), 1)
        for wanted, edge in zip(spacing_mm, volume.spacing_mm, strict=True)
    )
    if (nz, nx, ny) == (1, 1, 1):
        return volume
    z, x, y = volume.spacing_mm
    return Volume.from_array(
        volume.voxels[::nz, ::nx, ::ny], (nz * z, nx * x, ny * y), volume.rescale
    )


def _turn_and_shift(
    voxels: NDArray[np.int16], angle: float, shift: tuple[float, float], fill: float
) -> NDArray[np.float32]:
    """Every slice (x, y) turned and shifted alike; shift as a share of each axis."""
    slices = torch.from_numpy(voxels.astype(np.float32) - fill)[None]  # (1, z, x, y)
    _, _, rows, columns = slices.shape
    aspect = columns / rows
    # affine_grid speaks of (column, row) in [−1, 1]: turning a non-square slice needs the aspect.
    matrix = torch.tensor(
        [
            [math.cos(angle), -math.sin(angle) / aspect, 2 * shift[1]],
            [math.sin(angle) * aspect, math.cos(angle), 2 * shift[0]],
        ]
    )
    grid = F.affine_grid(matrix[None], list(slices.shape), align_corners=False)
    moved = F.grid_sample(slices, grid, mode="bilinear", align_corners=False)
    return (moved[0] + fill).numpy()
