"""Hounsfield units: how they travel as int16, and what of a chest lies where on their scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable

HU_RANGE = (-1000.0, 1000.0)
"""What the network sees; beyond it values are clipped."""

# Two notions, which share names. A chest has voxels in each of the first ones, whatever the kernel,
# the noise and the disease: wide, overlapping, with the least share of all voxels. A usual chest CT
# has 40 % air, 23 % lung and 34 % soft tissue of them.
_EXPECTED_IN_A_CHEST = (
    ("air", (-1100.0, -700.0), 0.005),
    ("lung", (-980.0, -400.0), 0.005),
    ("soft tissue", (-300.0, 300.0), 0.02),
)
TISSUES_HU = {
    "air": (-1100.0, -900.0),
    "lung": (-900.0, -500.0),
    "fat": (-150.0, -50.0),
    "soft_tissue": (-50.0, 150.0),
    "bone": (300.0, 3000.0),
}
"""What a voxel most likely is: bands that do not overlap, to describe a scan with. Lung is what
quantitative CT calls normally aerated; emphysema lies below it, consolidation above."""

_INT16 = np.iinfo(np.int16)
_STEPS_PER_HU = 32
"""Rounding to 1/32 HU is wrong by 1/64 HU at most, and ±1000 HU stays inside int16."""
_SLAB_VOXELS = 4_000_000
_SAMPLES = 1_000_000
_LEAST_INSIDE = 0.01
_REMEDY = (
    "Give the scan's own rescale values, which replace the file's (slope and intercept; "
    "--slope and --intercept on the command line), or export it again as Hounsfield units."
)
_NO_CHEST = (
    " If it is no CT of a chest (an image of MR, a mask), it is nothing for this model; any_region "
    "(--any-region) reads a CT of another region."
)


def to_int16(
    stored: NDArray[np.generic], rescale: tuple[float, float], where: str
) -> tuple[NDArray[np.int16], tuple[float, float], bool]:
    """Return int16 voxels, the (slope, intercept) that belongs to them, and whether that is exact.

    Args:
        stored: integers or floats of any size, any shape, Fortran order (as in NIfTI files).
        rescale: HU = slope · stored + intercept.
        where: what to call the data in an error.

    Raises:
        Unreadable: NaN or infinite voxels.
    """
    if stored.dtype.kind in "iu" and _fits(stored):
        if stored.dtype.newbyteorder("=") == np.int16:
            if not stored.dtype.isnative:  # in place: a second copy of a scan is too much
                stored = stored.byteswap(inplace=True).view(np.int16)
            return stored.view(np.int16), rescale, True
        return stored.astype(np.int16, order="F"), rescale, True
    voxels = np.empty(stored.shape, np.int16, order="F")
    for slab in _slabs(stored):
        hu = stored[slab].astype(np.float64)
        not_finite = hu.size - int(np.isfinite(hu).sum())
        if not_finite:
            raise Unreadable(
                f"{where}: voxels hold NaN or infinity ({not_finite} in one slab), "
                "expected numbers only.",
                "Replace them by the value of air before: numpy.nan_to_num(hu, nan=-1000, "
                "posinf=1000, neginf=-1000).",
            )
        with np.errstate(over="ignore"):  # infinite is clipped like any other large value
            hu *= rescale[0]
            hu += rescale[1]
        np.clip(hu, *HU_RANGE, out=hu)
        hu *= _STEPS_PER_HU
        voxels[slab] = np.rint(hu, out=hu)
    return voxels, (1 / _STEPS_PER_HU, 0.0), False


def check_plausible(
    hu: NDArray[np.float64],
    rescale: tuple[float, float],
    where: str,
    *,
    any_region: bool = False,
) -> tuple[str, ...]:
    """Refuse a volume that cannot be a chest CT in Hounsfield units.

    Args:
        hu: samples of it. rescale: what made Hounsfield units of them. where: what to call them.
        any_region: say so instead of refusing it, unless nearly all of it would be clipped.

    Returns: sentences for whoever reads the result.

    Raises:
        Unreadable: `implausible` says why.
    """
    why = implausible(hu, rescale)
    if why and any_region and not _clipped(hu, rescale):
        return (f"It was read since any region was asked for: {why}.",)
    if why:
        raise Unreadable(f"{where}: {why}.", _REMEDY + ("" if _clipped(hu, rescale) else _NO_CHEST))
    return ()


def implausible(hu: NDArray[np.float64], rescale: tuple[float, float]) -> str:
    """Say why values cannot be a chest's Hounsfield units; "" where they can.

    A chest holds air near −1000 HU, lung above it and soft tissue near 0. Values that were never
    rescaled have no air or no lung there (padding alone can look like air); values that were
    rescaled twice are clipped or have no soft tissue there.
    """
    if clipped := _clipped(hu, rescale):
        return clipped
    for name, (low, high), least in _EXPECTED_IN_A_CHEST:
        share = share_within(hu, (low, high))
        if share < least:
            return (
                f"the values cannot be Hounsfield units of a chest: {share:.2%} of the voxels are "
                f"{name} ({low:.0f}…{high:.0f} HU), expected at least {least:.1%} "
                f"({_seen(hu, rescale)})"
            )
    return ""


def _clipped(hu: NDArray[np.float64], rescale: tuple[float, float]) -> str:
    """Say that hardly any value is in the network's range; "" otherwise."""
    inside = share_within(hu, (HU_RANGE[0] + 1, HU_RANGE[1] - 1))
    if inside >= _LEAST_INSIDE:
        return ""
    outside = f"{1 - inside:.1%} of the voxels lie outside −1000…1000 HU"
    return f"{outside} and would be clipped ({_seen(hu, rescale)})"


def _seen(hu: NDArray[np.float64], rescale: tuple[float, float]) -> str:
    p5, p50, p95 = (f"{value:.0f}" for value in np.percentile(hu, (5, 50, 95)))
    return (
        f"with slope {rescale[0]:g} and intercept {rescale[1]:g} the percentiles 5/50/95 are "
        f"{p5}/{p50}/{p95} HU"
    )


def sampled(voxels: NDArray[np.generic]) -> NDArray[np.float64]:
    """Every n-th voxel along each axis, a million at most, as they are."""
    step = max(int(np.ceil((voxels.size / _SAMPLES) ** (1 / 3))), 1)
    return voxels[::step, ::step, ::step].astype(np.float64)


def sampled_hu(voxels: NDArray[np.int16], rescale: tuple[float, float]) -> NDArray[np.float64]:
    """Hounsfield units of every n-th voxel along each axis, a million at most."""
    return sampled(voxels) * rescale[0] + rescale[1]


def share_within(hu: NDArray[np.float64], bounds: tuple[float, float]) -> float:
    """Share of the values inside of bounds, both included."""
    return float(((hu >= bounds[0]) & (hu <= bounds[1])).mean())


def _fits(stored: NDArray[np.generic]) -> bool:
    if np.can_cast(stored.dtype, np.int16):
        return True
    low = min(int(stored[slab].min()) for slab in _slabs(stored))
    high = max(int(stored[slab].max()) for slab in _slabs(stored))
    return bool(low >= _INT16.min and high <= _INT16.max)


def _slabs(stored: NDArray[np.generic]) -> Iterator[tuple[slice, slice, slice]]:
    """Slices along the last axis, which lie in one piece in a NIfTI file."""
    nx, ny, nz = stored.shape
    thick = max(_SLAB_VOXELS // max(nx * ny, 1), 1)
    for start in range(0, nz, thick):
        yield slice(None), slice(None), slice(start, start + thick)
