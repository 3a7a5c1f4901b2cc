"""DICOM: a folder of files, or one multiframe file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.grid import AffineForm, Grid
from ctclip_client.readers.dicom.apart import frames
from ctclip_client.readers.dicom.file import is_dicom, require_pydicom
from ctclip_client.readers.dicom.header import read_image
from ctclip_client.readers.dicom.kinds import left_out
from ctclip_client.readers.dicom.pixels import dtype_of
from ctclip_client.readers.dicom.series import (
    RULE,
    UNSPECIFIED,
    DicomSeries,
    Found,
    in_folder,
    refusal,
    series_of,
)
from ctclip_client.readers.dicom.stack import Stack
from ctclip_client.readers.format import Options, Series, Stored
from ctclip_client.readers.gzip_stream import GZIP_MAGIC
from ctclip_client.system.terminal import command_line

_SCANNER, _MILLIMETRES = 1, 2
"""NIfTI's codes for the space and the unit of an affine."""
_DIRECTORY = "DICOMDIR"


class Dicom:
    """Series of a folder and all that is below it, of a DICOMDIR's folder, or a multiframe file."""

    name = "DICOM"
    suffixes: tuple[str, ...] = ()

    def sniff(self, head: bytes, path: Path, /) -> bool:
        """The magic of DICOM; every folder, too, for there is no other format of folders."""
        return is_dicom(head) or path.is_dir()

    def series(self, path: Path, /) -> Sequence[Series]:
        """All of the path, the one to take first. Raises: Unreadable where there is none;
        OSError."""
        found = look(path)
        if found.series:
            return found.series
        for _, error in found.damaged:
            raise error
        raise Unreadable(
            f"{path}: a folder without a DICOM image.",
            "Name the folder that holds the DICOM files of a scan, or the file of a scan.",
        )

    def read(self, path: Path, series: Series, options: Options, /) -> Stored:
        """The headers are read already; refuse what they can be refused for."""
        if not isinstance(series, DicomSeries):
            raise Unreadable(f"{path}: no DICOM series.", "Take it from Dicom.series.")
        _check_choice(path, series, options)
        stack = series.stack
        if series.error is not None or stack is None:
            raise series.error or Unreadable(f"{path}: no volume.", "")
        rescale, rescale_notes = _rescale(stack, options)
        digest = hashlib.sha256()
        return Stored(
            voxels=lambda: _voxels(stack, digest),
            sha256=digest.hexdigest,
            spacing_source="PixelSpacing, and the step between positions",
            spacing_mm=None if options.as_stored else stack.spacing_mm,
            affine=None if options.as_stored else stack.affine,
            rescale=rescale,
            notes=(*_notes(series, stack, options), *rescale_notes),
            series=series,
            grid=_grid(stack),
        )


def of_study(paths: Sequence[Path]) -> Sequence[DicomSeries]:
    """The series of a study whose files are known. Raises: Unreadable, OSError where one of them
    cannot be read any more: a part of a scan is no scan."""
    found = series_of(paths)
    for _, error in found.damaged:
        raise error
    if not found.series:
        raise Unreadable(f"{paths[0]}: it has changed since it was found.", "Read the path again.")
    return found.series


def look(path: Path) -> Found:
    """The series of a path, and the files that are damaged.

    Raises: Unreadable where it is one slice of a scan, or pydicom is not installed; OSError.
    """
    if path.is_dir():
        return in_folder(path)
    require_pydicom()
    with path.open("rb") as file:
        if file.read(2) == GZIP_MAGIC:
            raise Unreadable(
                f"{path}: a DICOM file packed by gzip.",
                "Unpack it (gunzip), and name the folder of the scan.",
            )
    folder = path.parent
    if path.name.upper() == _DIRECTORY:
        return in_folder(folder)
    image = read_image(path)
    if image is None:
        raise Unreadable(
            f"{path}: a DICOM file that belongs to no series.", "Name the folder of a scan."
        )
    if len(image.frames) == 1 and not left_out(image):
        raise Unreadable(
            f"{path}: one image of a scan, expected the folder that holds all of them.",
            f"Name the folder: {command_line(folder)}",
        )
    return series_of([path])


def _check_choice(path: Path, series: DicomSeries, options: Options) -> None:
    """Refuse to take what nobody has asked for by its UID."""
    if options.series is not None:
        return
    for _, error in series.damaged:  # it may be a slice of this series
        raise error
    if series.studies > 1:
        raise Unreadable(
            f"{path}: CT images of {series.studies} studies, expected those of one.",
            "Name the folder of one of them, or the series (--series UID; "
            f"ctclip series {command_line(path)} lists them).",
        )
    if series.left_out:
        raise refusal(path, series)


def _rescale(stack: Stack, options: Options) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """(slope, intercept) of all slices, None where the header has neither, and notes."""
    frame = stack.slices[0].frame
    slope, intercept = frame.rescale
    notes: tuple[str, ...] = ()
    if frame.rescale_type == UNSPECIFIED:
        notes = ("RescaleType is unspecified (US); Hounsfield units were taken.",)
    missing_one = slope is None or intercept is None
    if (slope is None and intercept is None) or (missing_one and options.rescale is not None):
        return None, notes
    if slope is None or intercept is None:
        missing = "RescaleSlope" if slope is None else "RescaleIntercept"
        raise Unreadable(
            f"{stack.slices[0]}: {missing} is missing or damaged, beside the other one.",
            "Give the scan's own (slope and intercept; --slope and --intercept on the command "
            "line).",
        )
    return (slope, intercept), notes


def _notes(series: DicomSeries, stack: Stack, options: Options) -> tuple[str, ...]:
    notes = []
    if unread := len(series.damaged) or options.unread_beside:
        notes.append(
            f"Not read, since damaged or closed: {unread} files beside those of the series (ctclip "
            "series lists them)."
        )
    if series.among > 1:
        notes.append(
            f"Series {series.uid} was taken of {series.among} ({RULE}): {len(stack.slices)} "
            f"slices, {stack.spacing_mm[2]:g} mm apart."
        )
    if options.series is not None and series.left_out:
        notes.append(f"The series was asked for; otherwise it is left out: {series.left_out}.")
    for reason, count in series.dropped:
        notes.append(f"Left out of the series: {count} × {reason}.")
    if stack.copies:
        notes.append(f"Left out: {stack.copies} images that are equal to another one.")
    if any(each.image.pixels is not None and each.image.pixels.lossy for each in stack.slices):
        notes.append("The images were compressed with loss.")
    return tuple(notes)


def _grid(stack: Stack) -> Grid:
    sform = AffineForm.of(stack.affine, _SCANNER)
    return Grid(stack.shape, stack.spacing_mm, _MILLIMETRES, sform, qform=None)


def _voxels(stack: Stack, digest: Any) -> NDArray[Any]:
    """Read the array (column, row, slice) in Fortran order, into its only copy.

    digest: gets the SHA-256 of every file, in the order of the slices.
    """
    place_of = {(each.image.path, each.index): k for k, each in enumerate(stack.slices)}
    files = {each.image.path: each.image for each in stack.slices}
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    voxels = np.empty(stack.shape[::-1], dtype_of(files.values()))
    for image, index, frame in frames(list(files.values())):
        if (image.path, index) in place_of:
            voxels[place_of[image.path, index]] = frame
    return voxels.transpose(2, 1, 0)
