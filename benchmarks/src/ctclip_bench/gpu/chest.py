"""CT-like volumes on the device: one chest, turned, shifted, scaled, with noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctclip_client.contract import Geometry
from ctclip_client.errors import Unreadable
from ctclip_export.model.preprocess import preprocess
from ctclip_export.samples.phantom import chest_phantom

_HALF = Geometry((120, 240, 240), (3.0, 1.5, 1.5))
"""Half the published resolution: a chest of 3 MiB, see benchmarks/gpu/pack_ct.py."""


def base_chest(packed: Path | None) -> Tensor:
    """VOXELS (1, 1, 120, 240, 240) float32 in [−1, 1] of the packed CT, or of a drawn one.

    packed: .npz with `voxels` uint8 (120, 240, 240), −1 as 0 and 1 as 255. Raises: Unreadable.
    """
    if packed is None:
        drawn = chest_phantom(_HALF)
        return preprocess(drawn.voxels, drawn.spacing_mm, drawn.rescale, _HALF)
    try:
        with np.load(packed) as content:
            stored = content["voxels"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise Unreadable(
            f"--ct: {packed}: {error}.", "Name a file that benchmarks/gpu/pack_ct.py has written."
        ) from error
    if stored.dtype != np.uint8 or stored.shape != _HALF.volume_shape:
        raise Unreadable(
            f"--ct: voxels {stored.dtype} {stored.shape}, expected uint8 {_HALF.volume_shape}.",
            "Name a file that benchmarks/gpu/pack_ct.py has written.",
        )
    return torch.from_numpy(stored).float()[None, None] / 127.5 - 1


def vary(chest: Tensor, seed: int, shape: tuple[int, int, int]) -> Tensor:
    """A variation (1, 1, D, H, W) of a chest (1, 1, d, h, w), both float32 in [−1, 1].

    Turned in the plane by up to 10°, moved by up to 5 % of each axis, up to 10 % larger or smaller,
    noise of 5 to 30 HU. The same seed gives the same values on one device.
    """
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return float(torch.rand((), generator=generator)) * (high - low) + low

    angle, scale = math.radians(between(-10, 10)), between(0.9, 1.1)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    x, y, z = (between(-0.1, 0.1) for _ in range(3))  # of an axis of length 2
    # affine_grid speaks of (y, x, z) in [−1, 1], the last axis first.
    rows = [[cos, -sin, 0.0, x], [sin, cos, 0.0, y], [0.0, 0.0, scale, z]]
    matrix = torch.tensor(rows, device=chest.device)
    grid = F.affine_grid(matrix[None], [1, 1, *shape], align_corners=False)
    # Outside of the chest is air, −1, while grid_sample fills with 0.
    moved = F.grid_sample(chest + 1, grid, align_corners=False) - 1
    of_device = torch.Generator(chest.device).manual_seed(seed)
    noise = torch.randn(moved.shape, generator=of_device, device=chest.device)
    return (moved + noise * between(0.005, 0.03)).clamp_(-1, 1)
