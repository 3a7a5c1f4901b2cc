"""Whether the middle of a scan, which is all that the model sees, shows a chest.

A whole-body scan holds a chest, and its middle may be the abdomen. Air, skin and the table have
voxels of every value of lung there, at their edges, and cushions are full of them; lung alone fills
whole blocks with them inside of a body.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import PUBLISHED_GEOMETRY
from ctclip_client.coverage import NARROW_MM, SHORT_MM, extent_mm
from ctclip_client.errors import Unreadable

# Noise and disease must not decide, so a block is judged by how many of its samples lie on one side
# of a bound, which noise moves little and clipping (at −1024, or −1000) not at all: half of lung is
# denser than air, also in emphysema, and nearly all of it lighter than the edge of a tissue.
#
# Share of 12 mm blocks, three public chest CTs: 6 % to 10 % as they are; 4 % to 10 % with added
# noise of up to 150 HU (SD), and with lung that is 200 HU denser; 3 % with lung at −972 HU.
# What is none: a head 0 %, an abdomen 0.1 %, with a litre of gas in its bowel and noise of 150 HU
# as well. Below 0.5 % are 0.2 litres.
_BLOCK_MM = 12.0
_SAMPLES_A_BLOCK = 6
"""Along an axis. With 4, air in noise of 150 HU is taken for lung three times as often."""
_BOUNDS_HU = _AIR_HU, _LUNG_HU, _EDGE_HU, _TISSUE_HU = -960.0, -500.0, -400.0, -200.0
_MOST_EDGE = 0.1
_LEAST_TISSUE = 0.4
"""The shell of a table fills less of a block."""
_LEAST_LUNG = 0.005
_CUT_MM2 = 1500.0
"""Both lungs have 10,000 mm² and more in the middle of a chest, and none beyond their ends."""


def check_middle(
    voxels: NDArray[np.int16],
    spacing_mm: tuple[float, ...],
    rescale: tuple[float, float],
    where: str,
    *,
    any_region: bool = False,
) -> tuple[str, ...]:
    """Refuse a scan without lung in its middle, as large as the published model's field of view.

    Args:
        voxels: (z, x, y) int16. spacing_mm: along the same axes.
        rescale: HU = slope · voxel + intercept.
        where: what to call the scan in an error.
        any_region: say so instead of refusing it.

    Returns: sentences for whoever reads the result; where lung reaches the end of what is seen, a
        part of the chest is not.

    Raises:
        Unreadable: less than 0.5 % of the middle is lung.
    """
    box = extent_mm(PUBLISHED_GEOMETRY.volume_shape, PUBLISHED_GEOMETRY.target_spacing_mm)
    seen = tuple(map(min, extent_mm(voxels.shape, spacing_mm), box))
    if min(seen[1:]) < NARROW_MM:  # said by `coverage`
        return ()
    lung = _lung(voxels, spacing_mm, rescale, seen)
    share = float(lung.mean())
    if share < _LEAST_LUNG:
        size = " × ".join(f"{length:.0f}" for length in seen)
        found = (
            f"no lung in the middle {size} mm (z × x × y) of the scan, which is what the model "
            f"sees: {share:.1%} of it, expected at least {_LEAST_LUNG:.1%}"
        )
        if any_region:
            return (f"There is {found}; it was read since any region was asked for.",)
        raise Unreadable(
            f"{where}: {found}.",
            "Crop the scan to the chest, or read it as it is: any_region=True (--any-region on the "
            "command line).",
        )
    if seen[0] < SHORT_MM:  # said by `coverage`
        return ()
    areas_mm2 = lung.mean(axis=(1, 2)) * seen[1] * seen[2]
    return tuple(
        f"Lung reaches the {end} end of what the model sees: a part of the chest lies beyond."
        for end, area_mm2 in (("lower", areas_mm2[0]), ("upper", areas_mm2[-1]))
        if area_mm2 >= _CUT_MM2
    )


def _lung(
    voxels: NDArray[np.int16],
    spacing_mm: tuple[float, ...],
    rescale: tuple[float, float],
    seen_mm: tuple[float, ...],
) -> NDArray[np.bool_]:
    """Which blocks (z, x, y) of the middle are lung."""
    picks = []
    for count, edge, length in zip(voxels.shape, spacing_mm, seen_mm, strict=True):
        blocks = max(round(length / _BLOCK_MM), 1)
        at = (np.arange(blocks * _SAMPLES_A_BLOCK) + 0.5) / (blocks * _SAMPLES_A_BLOCK)
        index = (count + (2 * at - 1) * length / edge) / 2
        picks.append(np.clip(index.astype(int), 0, count - 1))
    picked = voxels[np.ix_(*picks)]
    denser = {hu: _share_above(picked, hu, rescale) for hu in _BOUNDS_HU}
    lung = (
        (denser[_AIR_HU] > 0.5) & (denser[_LUNG_HU] < 0.5) & (denser[_EDGE_HU] <= _MOST_EDGE)
    )  # fmt: skip
    inside: NDArray[np.bool_] = lung & _enclosed(denser[_TISSUE_HU] >= _LEAST_TISSUE)
    return inside


def _share_above(
    picked: NDArray[np.int16], hu: float, rescale: tuple[float, float]
) -> NDArray[np.float64]:
    """Of each block (z, x, y), the share of samples above a bound.

    Compared as they are stored, and added up in bytes: a tenth of the time of float32.
    """
    slope, intercept = rescale
    bound = (hu - intercept) / slope
    above = picked > math.floor(bound) if slope > 0 else picked < math.ceil(bound)
    counts = above.view(np.uint8)
    each = _SAMPLES_A_BLOCK
    for axis in range(3):  # the first one first: what is left is added up in long rows
        shape = counts.shape
        blocks = (*shape[:axis], shape[axis] // each, each, *shape[axis + 1 :])
        counts = counts.reshape(blocks).sum(axis=axis + 1, dtype=np.uint8)  # 6³ fits
    return counts / each**3


def _enclosed(tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which blocks (z, x, y) have tissue in front, behind, and to the right or left."""
    right, front = (np.logical_or.accumulate(tissue, axis) for axis in (1, 2))
    left, behind = (
        np.flip(np.logical_or.accumulate(np.flip(tissue, axis), axis), axis) for axis in (1, 2)
    )
    enclosed: NDArray[np.bool_] = front & behind & (right | left)
    return enclosed
