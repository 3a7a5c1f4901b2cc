"""From a scan as its file holds it to a `Volume`: orientation, Hounsfield units, int16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.readers import remedies
from ctclip_client.readers.format import Options, Stored
from ctclip_client.readers.hounsfield import check_plausible, to_int16
from ctclip_client.readers.orientation import AS_STORED, Orientation, orientation_of
from ctclip_client.volume import Source, Volume, checked_rescale, checked_spacing_mm

LARGEST_TILT_DEG = 20.0
"""Beyond it the closest axes show another anatomy than the network has learnt; resample instead."""
LARGEST_SHEAR_DEG = 1.0
"""A gantry tilt shears the grid; turning axes cannot undo it."""
_TILT_WORTH_TELLING_DEG = 0.5


def to_volume(stored: Stored, path: Path, options: Options) -> Volume:
    """Turn, check and pack a scan. Axes are turned and flipped by the affine, never resampled.

    Raises:
        Unreadable: the scan lies askew, or its values cannot be a chest's Hounsfield units.
    """
    orientation = _orientation(stored, path)
    spacing_mm = options.spacing_mm or _spacing_mm(stored, path, orientation)
    rescale, hu_source = _rescale(stored, path, options)
    voxels, rescale, exact = to_int16(stored.voxels(), rescale, str(path))
    if not exact:
        hu_source += "; sent as 1/32 HU, clipped to −1000…1000"
    voxels = orientation.apply(voxels)
    check_plausible(voxels, rescale, str(path))
    grid = stored.grid and replace(stored.grid, axes=orientation.axes, flips=orientation.flips)
    notes = stored.notes
    if orientation.tilt_deg > _TILT_WORTH_TELLING_DEG:
        notes += (
            f"The grid is tilted by {orientation.tilt_deg:.1f}° against the patient; the closest "
            f"axes ({orientation.codes}) were taken, nothing was resampled.",
        )
    source = Source(orientation.codes, hu_source, str(path), stored.series.uid, notes, grid)
    return Volume(voxels, spacing_mm, rescale, source)


def _orientation(stored: Stored, path: Path) -> Orientation:
    if stored.affine is None:
        return AS_STORED
    found = orientation_of(stored.affine)
    if found is None:
        raise Unreadable(
            f"{path}: the affine names no patient axis for every array axis.", remedies.AS_STORED
        )
    if found.shear_deg > LARGEST_SHEAR_DEG:
        raise Unreadable(
            f"{path}: the grid is sheared by {found.shear_deg:.1f}° (a tilted gantry), expected at "
            f"most {LARGEST_SHEAR_DEG:g}°.",
            "Resample it onto a rectangular grid (pip install scipy first): "
            f"{remedies.resampled(path)}",
        )
    if found.tilt_deg > LARGEST_TILT_DEG:
        raise Unreadable(
            f"{path}: the grid is tilted by {found.tilt_deg:.0f}° against the patient, expected at "
            f"most {LARGEST_TILT_DEG:g}° (closest axes: {found.codes}).",
            "Take the axial series of the same study, or resample it onto the patient's axes "
            f"(pip install scipy first): {remedies.resampled(path)}",
        )
    return found


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


def _rescale(stored: Stored, path: Path, options: Options) -> tuple[tuple[float, float], str]:
    """(slope, intercept) to use, and where they come from."""
    stated = stored.rescale
    told = "" if stated is None else f"slope {stated[0]:g}, intercept {stated[1]:g}"
    if options.rescale is not None:
        given = f"slope {options.rescale[0]:g}, intercept {options.rescale[1]:g}"
        return options.rescale, f"given: {given}" + (told and f" (not used: the header's {told})")
    if stated is None:
        return (1.0, 0.0), "stored values are HU (no scaling in the header)"
    try:
        return checked_rescale(stated), f"header: {told}"
    except InvalidInput as error:
        raise Unreadable(
            f"{path}: header: {error.cause}",
            "Give the scan's own, which replace the header's (slope and intercept; --slope and "
            "--intercept on the command line).",
        ) from error
