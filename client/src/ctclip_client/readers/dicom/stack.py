"""The slices of a series put in order: a volume on a straight and even grid, or the reason why not.

Positions decide, not what tags say beside them (SliceThickness, SpacingBetweenSlices,
GantryDetectorTilt, InstanceNumber): these are often wrong. Numbers only tell acquisitions apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.readers.dicom.apart import frames
from ctclip_client.readers.dicom.header import Frame, Image
from ctclip_client.readers.dicom.pixels import check_pixels
from ctclip_client.readers.orientation import orientation_of
from ctclip_client.readers.to_volume import LARGEST_SHEAR_DEG, LARGEST_TILT_DEG

_SAME_PLACE_MM = 1e-3
"""Of two images of the same slice: less than any scanner's step, more than rounding."""
_OFF_GRID = 0.1
"""Of a step. Scanners write positions with one decimal, say: 0.05 mm of a step of 0.5 mm. A slice
that is missing puts others off by a half of a step at least."""
_MOST_GAPS = 0.25
"""Of all steps. More are a series that was made of two steps, and none that lacks slices."""
_SAME_DIRECTION = 1e-3
_SAME_SPACING_MM = 1e-3
_MOST_SEQUENCES = 4
_MOST_DIFFERENT = 0.6
"""Of the numbers of two sequences, which have half of them in common at least. A few that were
given twice are a mistake."""
_SHORTEST_SEQUENCE = 5
"""Slices. A few numbers rise or fall by chance."""
_DIGITS = ".6g"
"""Of a step: differences of decimals, in float64, are 2.4999999999 where 2.5 is meant."""
_RESAMPLE = (
    "Nothing is resampled here, since that invents values. Take the reconstruction of the study "
    "that has {wanted}, or resample it yourself with a tool that you trust, and read the NIfTI "
    "file that it writes."
)


@dataclass(frozen=True)
class Slice:
    """A frame, and the file that it is in. index: its number there, from 0."""

    image: Image
    index: int
    frame: Frame

    def __str__(self) -> str:
        many = len(self.image.frames) > 1
        return f"{self.image.path}" + (f" (frame {self.index + 1})" if many else "")


@dataclass(frozen=True)
class Stack:
    """Slices in order, towards the normal of their plane (row × column).

    shape: columns, rows and slices. affine: (4, 4) float64, from (column, row, slice) to (R, A, S)
    in millimetres. spacing_mm: along the same axes. copies: how many images were
    left out, since another one is the same. axial: whether the slices lie across the body.
    """

    slices: tuple[Slice, ...]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    copies: int
    axial: bool

    @property
    def extent_mm(self) -> float:
        """From the first slice to the last, with the thickness of a step."""
        return len(self.slices) * self.spacing_mm[2]


def stacked(slices: Sequence[Slice]) -> Stack:
    """Put the slices of one series in order.

    Raises: Unreadable where they are no volume without resampling; OSError.
    """
    for each in slices:
        _check_tags(each)
    _check_alike(slices)
    first = slices[0]
    row, column = np.array(first.frame.orientation).reshape(2, 3)
    normal = np.cross(row, column)
    positions = np.array([each.frame.position for each in slices])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    kept, copies = _without_copies([slices[n] for n in order], along[order])
    ordered = [slices[order[n]] for n in kept]
    places, along = positions[order][kept], along[order][kept]
    if len(ordered) < 2:
        raise Unreadable(
            f"{first}: the series has a single slice, expected a volume.",
            "Name the folder that holds all of its slices.",
        )
    _check_acquisitions(ordered)
    step_mm = _step_mm(along, first.image.path.parent)
    between_rows, between_columns = first.frame.pixel_spacing_mm or (0, 0)
    _check_straight(places, normal, min(between_rows, between_columns), first.image.path.parent)
    affine = np.eye(4)
    affine[:3, 0] = row * between_columns
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = (places[-1] - places[0]) / (along[-1] - along[0]) * step_mm
    affine[:3, 3] = places[0]
    affine[:2] *= -1  # DICOM's axes run towards L, P, S
    found = orientation_of(affine)
    if found is None or found.tilt_deg > LARGEST_TILT_DEG:
        tilt = "no patient axes" if found is None else f"{found.tilt_deg:.0f}° off the patient's"
        raise Unreadable(
            f"{first.image.path.parent}: the slices are tilted ({tilt}), expected at most "
            f"{LARGEST_TILT_DEG:g}°.",
            _RESAMPLE.format(wanted="axial slices"),
        )
    spacing_mm = (between_columns, between_rows, step_mm)
    rows, columns = _size(first)
    shape = columns, rows, len(ordered)
    return Stack(tuple(ordered), shape, affine, spacing_mm, copies, found.codes[2] in "IS")


def _check_tags(each: Slice) -> None:
    frame = each.frame
    missing = [
        name
        for name, value in (
            ("ImagePositionPatient", frame.position),
            ("ImageOrientationPatient", frame.orientation),
            ("PixelSpacing", frame.pixel_spacing_mm),
        )
        if value is None
    ]
    if missing:
        raise Unreadable(
            f"{each}: {', '.join(missing)} missing or damaged: nobody can tell where the slice "
            "lies.",
            "Export the series again from the archive that it came from.",
        )
    row, column = np.array(frame.orientation).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(row @ column) > 0.01:
        raise Unreadable(
            f"{each}: ImageOrientationPatient is damaged: expected two directions at a right "
            "angle.",
            "Export the series again from the archive that it came from.",
        )
    if not all(edge > 0 for edge in frame.pixel_spacing_mm or ()):
        raise Unreadable(
            f"{each}: PixelSpacing is not above 0.",
            "Export the series again from the archive that it came from.",
        )


def _check_alike(slices: Sequence[Slice]) -> None:
    first = slices[0]
    for each in slices:
        for name, alike in (
            ("Rows and Columns", _size(each) == _size(first)),
            ("PixelSpacing", _near(
                each.frame.pixel_spacing_mm, first.frame.pixel_spacing_mm, _SAME_SPACING_MM)),
            ("ImageOrientationPatient", _near(
                each.frame.orientation, first.frame.orientation, _SAME_DIRECTION)),
        ):  # fmt: skip
            if not alike:
                raise Unreadable(
                    f"{each}: {name} differs from that of {first}, in the same series.",
                    "Several scans share this series: put the slices of one of them into a folder "
                    "of their own.",
                )
        if each.frame.rescale != first.frame.rescale:
            raise Unreadable(
                f"{each}: RescaleSlope and RescaleIntercept differ from those of {first}, in the "
                "same series.",
                "Write the scan anew with one slope and intercept for all slices, each voxel as "
                "the Hounsfield units by its own slice's.",
            )


def _size(each: Slice) -> tuple[int, int]:
    pixels = check_pixels(each.image)
    return pixels.rows, pixels.columns


def _near(one: Any, other: Any, tolerance: float) -> bool:
    return bool(one == other or np.allclose(one, other, rtol=0, atol=tolerance))


def _without_copies(ordered: Sequence[Slice], along: NDArray[np.float64]) -> tuple[list[int], int]:
    """Indices of one image for every place, and how many others there are.

    Raises: Unreadable where two images of a place differ.
    """
    kept = [0]
    for n in range(1, len(ordered)):
        if along[n] - along[kept[-1]] > _SAME_PLACE_MM:
            kept.append(n)
    starts = [*kept, len(ordered)]
    pairs = [
        (ordered[start], ordered[n])
        for start, end in pairwise(starts) for n in range(start + 1, end)
    ]  # fmt: skip
    for some in (pairs[:1], pairs[1:]):  # most that differ do so from the first one on
        same = _digests([each for pair in some for each in pair])
        for one, other in some:
            alike = _near(one.frame.position, other.frame.position, _SAME_PLACE_MM)
            if not alike or same[_key(one)] != same[_key(other)]:
                raise Unreadable(
                    f"{other} and {one} show the same slice and differ: {len(pairs)} of "
                    f"{len(ordered)} images have a place that another one has.",
                    "Several scans share this series (times, phases, kernels, energies): put the "
                    "slices of one of them into a folder of their own.",
                )
    return kept, len(pairs)


def _key(each: Slice) -> tuple[Path, int]:
    return each.image.path, each.index


def _digests(slices: Sequence[Slice]) -> dict[tuple[Path, int], bytes]:
    """Of the stored values of each slice."""
    wanted = set(map(_key, slices))
    images = {each.image.path: each.image for each in slices}
    return {
        (image.path, index): hashlib.sha256(frame.astype("<i8").tobytes()).digest()
        for image, index, frame in (frames(list(images.values())) if images else ())
        if (image.path, index) in wanted
    }


def _check_acquisitions(ordered: Sequence[Slice]) -> None:
    """Refuse acquisitions that lie within each other. One after the other is how a scanner works
    that stops for each."""
    reach: dict[float, tuple[int, int]] = {}
    for n, each in enumerate(ordered):
        if each.frame.acquisition is None:  # which says nothing of another one
            continue
        start, _ = reach.setdefault(each.frame.acquisition, (n, n))
        reach[each.frame.acquisition] = start, n
    for (_, end), (start, _) in pairwise(sorted(reach.values())):
        if start < end:
            raise _interleaved(ordered[start], len(reach), "by AcquisitionNumber")
    if count := _sequences(ordered):
        raise _interleaved(ordered[1], count, "InstanceNumber counts each of them")


def _interleaved(where: Slice, count: int, by: str) -> Unreadable:
    return Unreadable(
        f"{where}: {count} acquisitions are interleaved in the series ({by}): neighbouring slices "
        "are of different times.",
        "Put the slices of one of them into a folder of their own.",
    )


def _sequences(ordered: Sequence[Slice]) -> int:
    """How many times InstanceNumber counts the slices, by turns; 0 for once, or no such pattern.

    A series whose numbers repeat may be good: scanners begin anew for each acquisition, and some
    tools write one number into all files. Those do not rise or fall along every n-th slice.
    """
    numbers = [each.frame.instance for each in ordered]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or len(set(known)) > _MOST_DIFFERENT * len(known):
        return 0
    for count in range(2, min(_MOST_SEQUENCES, len(known) // _SHORTEST_SEQUENCE) + 1):
        steps = [np.diff(known[first::count]) for first in range(count)]
        if all((step > 0).all() or (step < 0).all() for step in steps):
            return count
    return 0


def _step_mm(along: NDArray[np.float64], folder: Path) -> float:
    """The median step; the mean one where positions were rounded so that the median misses them.

    Raises: Unreadable where neither makes an even grid.
    """
    steps = np.diff(along)
    median = float(f"{np.median(steps):{_DIGITS}}")
    mean = float(f"{(along[-1] - along[0]) / len(steps):{_DIGITS}}")
    for step in (median, mean):
        off = along - along[0] - step * np.arange(len(along))
        off -= (off.max() + off.min()) / 2
        if np.abs(off).max() <= _OFF_GRID * step:
            return step
    gaps = np.flatnonzero(steps > 1.5 * median)
    whole = steps[gaps] / median
    few = 0 < len(gaps) < _MOST_GAPS * len(steps)
    if few and np.abs(whole - np.rint(whole)).max() < 2 * _OFF_GRID:
        others = np.delete(steps, gaps)
        if not len(others) or np.abs(others - median).max() < 2 * _OFF_GRID * median:
            raise Unreadable(
                f"{folder}: slices are missing: {int(np.rint(whole).sum()) - len(gaps)} at "
                f"{len(gaps)} places of a series of {len(along)}, {median:g} mm apart.",
                "Copy or export all of the series again. What is missing is not made up.",
            )
    raise Unreadable(
        f"{folder}: the slices are not evenly spaced: {steps.min():.4g} to {steps.max():.4g} mm "
        f"apart, expected every slice within a tenth of a step ({median:g} mm) of an even grid.",
        _RESAMPLE.format(wanted="one step between slices"),
    )


def _check_straight(
    places: NDArray[np.float64], normal: NDArray[np.float64], pixel_mm: float, folder: Path
) -> None:
    """Refuse slices that drift sideways: a tilted gantry, or a curved path."""
    moved = places - places[0]
    whole = moved[-1]
    length = float(whole @ normal)
    drift = float(np.linalg.norm(whole - length * normal))
    shear_deg = float(np.degrees(np.arctan2(drift, length)))
    if shear_deg > LARGEST_SHEAR_DEG:
        raise Unreadable(
            f"{folder}: the gantry was tilted: the slices drift sideways by {shear_deg:.1f}°, "
            f"expected at most {LARGEST_SHEAR_DEG:g}°.",
            _RESAMPLE.format(wanted="no tilt"),
        )
    line = np.outer(moved @ normal / length, whole)
    off_mm = float(np.linalg.norm((moved - line), axis=1).max())
    if off_mm > pixel_mm:
        raise Unreadable(
            f"{folder}: the slices lie on no straight line: one is {off_mm:.3g} mm off, expected "
            f"at most a voxel ({pixel_mm:.3g} mm).",
            _RESAMPLE.format(wanted="slices above each other"),
        )
