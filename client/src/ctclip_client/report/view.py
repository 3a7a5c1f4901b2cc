"""The CT of a page: 8 bits a voxel, on half of the model's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import Geometry
from ctclip_client.maps.tokens import TokenAxis, token_axes
from ctclip_client.volume import Volume

HU_RANGE = (-1000.0, 1000.0)
"""What the model's input is clipped to; outside of the scan it is the lower end."""
_LOW, _HIGH = HU_RANGE
STEP_HU = (_HIGH - _LOW) / 255
_BINS = np.arange(-1200.0, 2001.0, 25.0)


@dataclass(frozen=True)
class View:
    """voxels: (z, x, y) uint8; HU = −1000 + STEP_HU · voxel. spacing_mm: their edges. They cover
    what the model sees: its whole field of view, the scan in the middle."""

    voxels: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Histogram:
    """How often values occur in a scan as it is stored.

    counts: (N,) voxels between each two of edges (N + 1,) HU; what lies outside of the edges is
    counted at the ends. below, above: share of voxels that clipping to HU_RANGE changes.
    """

    counts: NDArray[np.float64]
    edges: NDArray[np.float64]
    below: float
    above: float


def half_grid(volume: Volume, geometry: Geometry) -> View:
    """Average a scan over boxes of two by two by two of the model's voxels, clipped to HU_RANGE
    before, as the model's input is. Whatever part of a box lies outside of the scan counts as air.

    geometry: what the model sees.
    """
    size, target = geometry.volume_shape, geometry.target_spacing_mm
    count = (max(size[0] // 2, 1), max(size[1] // 2, 1), max(size[2] // 2, 1))
    shape = volume.voxels.shape
    axes = token_axes(shape, volume.spacing_mm, geometry, count)
    z, x, y = (_overlaps(axis, n) for axis, n in zip(axes, shape, strict=True))
    slope, intercept = (np.float32(value) for value in volume.rescale)
    voxels = np.zeros(count, np.uint8)
    for place, weights in enumerate(z):
        used = np.flatnonzero(weights)
        if not used.size:
            continue
        plane = np.zeros(shape[1:], np.float32)
        for index in used:
            hu = volume.voxels[index] * slope + intercept
            plane += weights[index] * (np.clip(hu, _LOW, _HIGH) - np.float32(_LOW))
        voxels[place] = np.rint((x @ plane @ y.T) / STEP_HU)
    edges = zip(size, target, count, strict=True)
    spacing = tuple(n * edge / half for n, edge, half in edges)
    return View(voxels, (spacing[0], spacing[1], spacing[2]))


def _overlaps(axis: TokenAxis, voxels: int) -> NDArray[np.float32]:
    """(count, voxels) share of each box along an axis that lies in each voxel of the scan."""
    begin = axis.first + np.arange(axis.count)[:, None] * axis.width
    at = np.arange(voxels)
    common = np.minimum(begin + axis.width, at + 1) - np.maximum(begin, at)
    share: NDArray[np.float64] = common.clip(0) / axis.width
    return share.astype(np.float32)


def histogram(volume: Volume) -> Histogram:
    """Count the values of a scan as it is stored, before anything was clipped."""
    stored = np.zeros(1 << 16, np.int64)
    for plane in volume.voxels:
        stored += np.bincount(plane.view(np.uint16).ravel(), minlength=1 << 16)
    slope, intercept = volume.rescale
    hu = slope * np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(float) + intercept
    counts, _ = np.histogram(hu.clip(_BINS[0], _BINS[-1]), _BINS, weights=stored)
    total = stored.sum()
    below, above = stored[hu < _LOW].sum() / total, stored[hu > _HIGH].sum() / total
    return Histogram(counts.astype(float), _BINS, float(below), float(above))
