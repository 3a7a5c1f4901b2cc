"""From a scan as its file holds it to a `Volume`: orientation, Hounsfield units, int16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.readers import remedies
from ctclip_client.readers.format import Options, Stored
from ctclip_client.readers.hounsfield import check_plausible, implausible, sampled, to_int16
from ctclip_client.readers.metadata import Row
from ctclip_client.readers.middle import check_middle
from ctclip_client.readers.orientation import AS_STORED, Orientation, orientation_of
from ctclip_client.volume import Source, Volume, checked_rescale, checked_spacing_mm

LARGEST_TILT_DEG = 20.0
"""Beyond it the closest axes show another anatomy than the network has learnt; resample instead."""
LARGEST_SHEAR_DEG = 1.0
"""A gantry tilt shears the grid; turning axes cannot undo it."""
_TILT_WORTH_TELLING_DEG = 0.5
_PERCENTILES = (5, 50, 95)


def to_volume(stored: Stored, path: Path, options: Options) -> Volume:
    """Turn, check and pack a scan. Axes are turned and flipped by the affine, never resampled.

    Raises:
        Unreadable: the scan lies askew, or its values cannot be a chest's Hounsfield units.
    """
    orientation = _orientation(stored, path)
    spacing_mm = options.spacing_mm or _spacing_mm(stored, path, orientation)
    own, hu_source = _rescale(stored, path, options)
    array = stored.voxels()
    samples = sampled(array)
    rescale, notes = own, stored.notes
    if options.metadata is not None:
        rescale, hu_source, double = _by_metadata(options.metadata, own, samples, hu_source)
        notes += double
    voxels, packed, exact = to_int16(array, rescale, str(path))
    del array
    if not exact:
        hu_source += "; sent as 1/32 HU, clipped to −1000…1000"
    hu = samples * rescale[0] + rescale[1]
    notes += check_plausible(hu, rescale, str(path), any_region=options.any_region)
    voxels = orientation.apply(voxels)
    notes += check_middle(voxels, spacing_mm, packed, str(path), any_region=options.any_region)
    if orientation.tilt_deg > _TILT_WORTH_TELLING_DEG:
        notes += (
            f"The grid is tilted by {orientation.tilt_deg:.1f}° against the patient; the closest "
            f"axes ({orientation.codes}) were taken, nothing was resampled.",
        )
    source = Source(
        orientation=orientation.codes,
        turned=orientation.turned,
        spacing_source=_spacing_source(stored, options),
        hu_source=hu_source,
        hu_percentiles=tuple(
            (percent, round(float(value), 1))
            for percent, value in zip(_PERCENTILES, np.percentile(hu, _PERCENTILES), strict=True)
        ),
        path=str(path),
        series=stored.series.uid,
        sha256=stored.sha256 and stored.sha256(),
        notes=notes,
        shape=voxels.shape,
        grid=stored.grid and replace(stored.grid, axes=orientation.axes, flips=orientation.flips),
    )
    return Volume(voxels, spacing_mm, packed, source)


def _orientation(stored: Stored, path: Path) -> Orientation:
    if stored.affine is None:
        return AS_STORED
    found = orientation_of(stored.affine)
    if found is None:
        raise Unreadable(
            f"{path}: the affine names no patient axis for every array axis.", remedies.AS_STORED
        )
    check_shear(found, path)
    if found.tilt_deg > LARGEST_TILT_DEG:
        raise Unreadable(
            f"{path}: the grid is tilted by {found.tilt_deg:.0f}° against the patient, expected at "
            f"most {LARGEST_TILT_DEG:g}° (closest axes: {found.codes}).",
            "Take the axial series of the same study, or resample it onto the patient's axes "
            f"(pip install scipy first): {remedies.resampled(path)}",
        )
    return found


def check_shear(orientation: Orientation, path: Path) -> None:
    """Refuse the grid of a gantry that was tilted. Raises: Unreadable."""
    if orientation.shear_deg > LARGEST_SHEAR_DEG:
        raise Unreadable(
            f"{path}: the grid is sheared by {orientation.shear_deg:.1f}° (a tilted gantry), "
            f"expected at most {LARGEST_SHEAR_DEG:g}°.",
            "Resample it onto a rectangular grid (pip install scipy first): "
            f"{remedies.resampled(path)}",
        )


def _spacing_mm(stored: Stored, path: Path, orientation: Orientation) -> tuple[float, float, float]:
    if stored.spacing_mm is None:
        raise InvalidInput("as_stored without spacing_mm.", "Give it as (z, x, y) in millimetres.")
    try:
        return checked_spacing_mm([stored.spacing_mm[axis] for axis in orientation.axes])
    except InvalidInput as error:
        raise Unreadable(
            f"{path}: {error.cause}",
            f"The header's edges or its unit are wrong, or this is no CT. {remedies.AS_STORED}",
        ) from error


def _spacing_source(stored: Stored, options: Options) -> str:
    if options.metadata is not None:
        return f"metadata, line {options.metadata.line}"
    return stored.spacing_source if options.spacing_mm is None else "given by the caller"


def _by_metadata(
    row: Row, own: tuple[float, float], samples: NDArray[np.float64], hu_source: str
) -> tuple[tuple[float, float], str, tuple[str, ...]]:
    """(slope, intercept) for a scan of CT-RATE, where they come from, and what is to be said.

    Upstream applies the row to what the file's own scaling makes of the stored values. The second
    generation of the data set holds Hounsfield units already, and the row would rescale it twice:
    where the row gives no chest, and the values are one without it, they are taken without it.
    """
    slope, intercept = row.rescale
    both = (slope * own[0], slope * own[1] + intercept)
    told = f"slope {slope:g}, intercept {intercept:g}"
    if (
        both != own
        and implausible(samples * both[0] + both[1], both)
        and not implausible(samples * own[0] + own[1], own)
    ):
        note = (
            f"The values are Hounsfield units without the metadata's {told}, and not with it: it "
            "was not applied. Upstream's script applies it all the same, to values that are "
            "rescaled already (the second generation of CT-RATE)."
        )
        return own, f"{hu_source} (not used: the metadata's {told})", (note,)
    return both, f"metadata, line {row.line}: {told}, on top of: {hu_source}", ()


def _rescale(stored: Stored, path: Path, options: Options) -> tuple[tuple[float, float], str]:
    """(slope, intercept) that the file or the caller states, and where they come from."""
    stated = stored.rescale
    told = "" if stated is None else f"slope {stated[0]:g}, intercept {stated[1]:g}"
    if options.rescale is not None:
        given = f"slope {options.rescale[0]:g}, intercept {options.rescale[1]:g}"
        return options.rescale, f"given: {given}" + (told and f" (not used: the header's {told})")
    if stated is None:
        usual = "stored values are HU (no scaling in the header)"
        if options.metadata is not None:
            usual = "no scaling in the header"
        return (1.0, 0.0), stored.rescale_source or usual
    try:
        return checked_rescale(stated), stored.rescale_source or f"header: {told}"
    except InvalidInput as error:
        raise Unreadable(
            f"{path}: header: {error.cause}",
            "Give the scan's own, which replace the header's (slope and intercept; --slope and "
            "--intercept on the command line).",
        ) from error
