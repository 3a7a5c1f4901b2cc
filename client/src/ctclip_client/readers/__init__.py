"""From a CT file to a `Volume`.

`registry` finds the format by the file's content and reads it into `Stored`; `to_volume` makes the
volume, for all formats alike.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.readers.archive import Packed
from ctclip_client.readers.choice import chosen
from ctclip_client.readers.dicom import of_study
from ctclip_client.readers.find import Scan, find_scans
from ctclip_client.readers.format import Options, Series
from ctclip_client.readers.metadata import Metadata
from ctclip_client.readers.registry import SUFFIXES, format_of
from ctclip_client.readers.remedies import not_opened
from ctclip_client.readers.to_volume import to_volume
from ctclip_client.volume import Volume, checked_rescale, checked_spacing_mm

__all__ = ["SUFFIXES", "Metadata", "Scan", "find_scans", "read_volume"]


def read_volume(
    path: str | os.PathLike[str] | Scan,
    *,
    as_stored: bool = False,
    spacing_mm: Sequence[float] | None = None,
    rescale: Sequence[float] | None = None,
    series: str | None = None,
    metadata: str | os.PathLike[str] | Metadata | None = None,
    any_region: bool = False,
) -> Volume:
    """Read a chest CT and bring it onto the network's axes (z to S, x to L, y to P).

    Axes are turned and flipped by the file's affine, never resampled. Stored integers stay as they
    are; floats and values beyond int16 become round(32 · clip(HU, −1000, 1000)).

    Args:
        path: a file or folder (the content decides, not the name): DICOM (also a DICOMDIR, or a
            multiframe file), a zip or tar of one scan, NIfTI, NRRD, MetaImage, the `.npz` of
            RAD-ChestCT. Or what `find_scans` has found.
        as_stored: trust no orientation: take the array [x, y, z] as it lies in the file, as
            upstream's inference script does, and only transpose it to (z, x, y). Needs
            `spacing_mm`. The header's scaling counts, unless `rescale` is given.
        spacing_mm: (z, x, y) in millimetres, only with `as_stored`.
        rescale: (slope, intercept) that replace the file's own; HU = slope · stored + intercept.
            Upstream's script applies its row of metadata on top of the header's scaling, as
            `metadata` does.
        series: the SeriesInstanceUID to take where a path holds several; a `Scan` has its own.
        metadata: CT-RATE's table (a CSV file, or a `Metadata` for many scans), for its files as
            they are: implies `as_stored`; spacing, slope and intercept come from the scan's row,
            which is applied on top of the header's scaling. Where that gives no Hounsfield units
            of a chest and the values are some without it (the second generation of the data set),
            the row's slope and intercept are left out, and a note says so.
        any_region: read a scan whose middle, which is what the model sees, holds no lung, or whose
            values are no chest's.

    Raises:
        Unreadable: missing, damaged, no CT format that this version reads, or values that cannot
            be Hounsfield units.
        InvalidInput: the options contradict each other or are out of range.
    """
    if metadata is not None and (spacing_mm is not None or rescale is not None):
        raise InvalidInput(
            "metadata is given together with a spacing or rescale values.",
            "Leave those out: they come from the scan's row.",
        )
    if as_stored and spacing_mm is None and metadata is None:
        raise InvalidInput(
            "as_stored without spacing: the header's is not trusted in this mode.",
            "Give the voxel spacing in millimetres as z,x,y, for instance 2.5,0.7,0.7.",
        )
    if spacing_mm is not None and not as_stored:
        raise InvalidInput(
            "spacing is given without as_stored, so it would contradict the file's own.",
            "Ask for as_stored as well, or leave the spacing to the file.",
        )
    scan = path if isinstance(path, Scan) else Scan(Path(path), series, 0, 0)
    if series not in (None, scan.series):
        if scan.series is not None:
            raise InvalidInput(
                "series names another series than the scan does.", "Give the path instead."
            )
        scan = replace(scan, series=series)
    if scan.refused is not None:
        raise type(scan.refused)(scan.refused.cause, scan.refused.remedy)
    location = scan.path
    options = Options(
        as_stored=as_stored,
        spacing_mm=None if spacing_mm is None else checked_spacing_mm(spacing_mm),
        rescale=None if rescale is None else checked_rescale(rescale),
        series=None if scan.files else scan.series,
        unread_beside=scan.unread_beside,
        any_region=any_region,
    )
    table = metadata
    if table is not None and not isinstance(table, Metadata):
        table = Metadata.from_file(table)
    try:
        # Damaged floats are found by looking at them, not by numpy's warnings.
        with np.errstate(invalid="ignore", over="ignore"):
            form = format_of(location)
            files = [location / name for name in scan.files]
            found = of_study(files) if files else form.series(location)
            taken = chosen(found, location, scan.series)
            if table is not None:
                row = table.row(_named(taken, location))
                options = replace(options, as_stored=True, spacing_mm=row.spacing_mm, metadata=row)
            stored = form.read(location, taken, options)
            return to_volume(stored, location, options)
    except OSError as error:
        raise not_opened(location, error) from error
    except MemoryError as error:
        raise Unreadable(
            f"{location}: its header asks for more memory than this machine has.",
            "Read it on a machine with more memory, or check whether the header is damaged.",
        ) from error


def _named(series: Series, location: Path) -> Path:
    """The file by whose name a table has its row: of an archive, the one that lies in it."""
    if isinstance(series, Packed) and series.path.is_file():
        return series.path
    return location
