"""Preprocessing in PyTorch, step by step as upstream does it; the reference for the ONNX graph.

Written for likeness, not for speed or memory: it resamples the whole volume in float64.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ctclip_client.contract import Geometry


def preprocess(
    voxels: NDArray[np.int16],
    spacing_mm: tuple[float, float, float],
    rescale: tuple[float, float],
    geometry: Geometry,
) -> Tensor:
    """Stored voxels int16 (z, x, y) -> (1, 1, D, H, W) float32 in [−1, 1].

    spacing_mm: (z, x, y). rescale: (slope, intercept). Source: upstream `data_inference_nii.py`.
    """
    slope, intercept = rescale
    hu = torch.from_numpy(voxels.astype(np.float64)) * slope + intercept
    hu = hu.clamp(-1000, 1000)
    ratios = np.asarray(spacing_mm) / np.asarray(geometry.target_spacing_mm)
    size = [int(count * ratio) for count, ratio in zip(voxels.shape, ratios, strict=True)]
    resampled = F.interpolate(hu[None, None], size=size, mode="trilinear", align_corners=False)
    fitted = resampled[0, 0] / 1000
    for axis, target in enumerate(geometry.volume_shape):
        start = max((fitted.shape[axis] - target) // 2, 0)
        fitted = fitted.narrow(axis, start, min(fitted.shape[axis], target))
    missing = [
        target - count for target, count in zip(geometry.volume_shape, fitted.shape, strict=True)
    ]
    padding = [part for count in reversed(missing) for part in (count // 2, count - count // 2)]
    return F.pad(fitted, padding, value=-1.0).float()[None, None]
