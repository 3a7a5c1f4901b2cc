"""The series of a folder or a file, what each of them is, and which one to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ctclip_client.errors import Unreadable
from ctclip_client.readers.dicom.file import is_dicom, require_pydicom
from ctclip_client.readers.dicom.header import Image, read_image
from ctclip_client.readers.dicom.kinds import CT, is_ct, left_out
from ctclip_client.readers.dicom.pixels import check_pixels
from ctclip_client.readers.dicom.stack import Slice, Stack, stacked
from ctclip_client.readers.format import Series
from ctclip_client.readers.remedies import COPY_AGAIN
from ctclip_client.readers.walk import Closed, cannot_be_read, files_below
from ctclip_client.system.terminal import command_line

FEWEST_SLICES = 20
"""Fewer are a localizer, a sample or a part of a chest."""
RULE = "axial first, then the smallest step, the longest extent, the lowest SeriesNumber"
HOUNSFIELD, UNSPECIFIED = "HU", "US"
"""Of RescaleType. What is unspecified is HU in practice, and its values are looked at anyway."""
_HEAD_BYTES = 256


@dataclass(frozen=True)
class DicomSeries(Series):
    """A series as it lies in the files.

    images: all of its files. stack: its slices in order; None where there is none, for the reason
        `error`. dropped: why images of it are no slices, and how many.
    among: how many series of its study may be taken; 0 where it is not the one that is. studies: of
        how many studies the path has CT images. damaged: files of the path
        that are DICOM and cannot be read, and why: nobody knows of which series they are.
    """

    images: tuple[Image, ...] = ()
    stack: Stack | None = field(default=None, repr=False)
    error: Unreadable | None = None
    dropped: tuple[tuple[str, int], ...] = ()
    among: int = 0
    studies: int = 0
    damaged: tuple[tuple[Path, Unreadable], ...] = ()

    @property
    def study(self) -> str:
        """StudyInstanceUID, or the series' own where there is none."""
        return self.images[0].study

    @property
    def has_ct(self) -> bool:
        """Whether any of it is stored as a CT image."""
        return any(map(is_ct, self.images))


@dataclass(frozen=True)
class Found:
    """What lies at a path. series: those that may be taken first, the best of all first. damaged:
    an error for each file that is DICOM and cannot be read."""

    series: tuple[DicomSeries, ...]
    damaged: tuple[tuple[Path, Unreadable], ...]


def dicom_files(files: Iterable[Path], closed: Closed) -> Iterator[Path]:
    """Those that are DICOM, told by their content.

    closed: gets those that cannot be opened and, at the end, empty ones that are named like the
    DICOM files around them: a copy that was interrupted, or a full disk, leaves such slices.
    """
    kinds: set[tuple[Path, str]] = set()
    empty = []
    for path in files:
        try:
            with path.open("rb") as opened:
                head = opened.read(_HEAD_BYTES)
        except OSError as error:
            closed.append((path, cannot_be_read(path, error)))
            continue
        if not head:
            empty.append(path)
        if is_dicom(head):
            kinds.add(_kind(path))
            yield path
    closed += (
        (path, Unreadable(f"{path}: an empty file among DICOM files.", COPY_AGAIN))
        for path in empty
        if _kind(path) in kinds
    )


def _kind(path: Path) -> tuple[Path, str]:
    """Folder and suffix; names that end in numbers have none."""
    return path.parent, path.suffix.lower() if path.suffix[1:].isalpha() else ""


def series_of(paths: Iterable[Path], closed: Closed | None = None) -> Found:
    """Read the headers of files, and put their slices in order.

    closed: what cannot be looked into beside them; gets what cannot be opened.

    Raises: Unreadable where pydicom is not installed; OSError, where `closed` is not given.
    """
    paths = list(paths)
    if paths:
        require_pydicom()
    damaged: Closed = []
    by_uid: dict[str, list[Image]] = {}
    for path in paths:
        try:
            image = read_image(path)
        except Unreadable as error:
            damaged.append((path, _kept(error)))
        except OSError as error:
            if closed is None:
                raise
            closed.append((path, cannot_be_read(path, error)))
        else:
            if image is not None:
                by_uid.setdefault(image.series, []).append(image)
    unread = (*damaged, *(closed or ()))
    found = _in_order([_series(uid, images) for uid, images in by_uid.items()])
    return Found(tuple(replace(each, damaged=unread) for each in found), unread)


def in_folder(folder: Path) -> Found:
    """The series of a folder and all that is below it. What cannot be looked into is as a damaged
    file. Raises: as `series_of`."""
    closed: Closed = []
    return series_of(dicom_files(files_below(folder, closed), closed), closed)


def preferred(found: Found) -> dict[str, DicomSeries]:
    """By study, the series that is taken of it; of a study whose series are all left out, none."""
    taken: dict[str, DicomSeries] = {}
    for series in found.series:
        if not series.left_out:
            taken.setdefault(series.study, series)
    return taken


def refusal(path: Path, series: DicomSeries) -> Unreadable:
    """Why a series that is left out is not read, unless it is asked for. path: where it lies."""
    error = series.error
    if error is not None and error.cause.rstrip(".") == series.left_out:
        return error
    listed = f"ctclip series {command_line(path)} says what there is"
    if error is None:
        remedy = f"{listed}; --series {series.uid} takes this one all the same."
    else:  # a kind of its own, and no volume either
        remedy = f"{listed}. Name a folder with a CT series of many slices."
    return Unreadable(f"{path}: no series to take: {series.left_out}.", remedy)


def _series(uid: str, images: Sequence[Image]) -> DicomSeries:
    reasons = Counter(reason for image in images if (reason := left_out(image)))
    slices = [image for image in images if not left_out(image)]
    if slices:
        dropped, why = tuple(reasons.most_common()), ""
    else:
        # Whoever asks for it may have it, as far as it is a volume: a projection, say.
        dropped, why = (), reasons.most_common(1)[0][0]
        slices = [image for image in images if is_ct(image) and image.modality == CT]
    stack, error = _stack(slices)
    if not slices:
        error = Unreadable(f"{images[0].path}: {why}.", "Name a CT series of the study.")
    elif error is not None:
        why = why or error.cause.rstrip(".")
    elif stack is not None and len(stack.slices) < FEWEST_SLICES:
        why = why or f"fewer than {FEWEST_SLICES} slices"
    return DicomSeries(uid, why, tuple(images), stack, error, dropped)


def _stack(images: Sequence[Image]) -> tuple[Stack | None, Unreadable | None]:
    """The slices in order, or why there is no such order."""
    if not images:
        return None, None
    try:
        for image in images:
            _check_units(image)
            check_pixels(image)
        frames = [Slice(image, n, f) for image in images for n, f in enumerate(image.frames)]
        return stacked(frames), None
    except Unreadable as error:
        return None, _kept(error)


def _kept(error: Unreadable) -> Unreadable:
    """Without its traceback, which would hold pixels, and what was unpacked of an archive."""
    return Unreadable(error.cause, error.remedy)


def _check_units(image: Image) -> None:
    if image.modality_lut:
        raise Unreadable(
            f"{image.path}: ModalityLUTSequence: the stored values become others by a table, "
            "expected Hounsfield units by slope and intercept.",
            "Take a series of the study in Hounsfield units.",
        )
    if any(frame.rescale_type not in ("", HOUNSFIELD, UNSPECIFIED) for frame in image.frames):
        raise Unreadable(
            f"{image.path}: RescaleType is not {HOUNSFIELD}: the values are no Hounsfield units.",
            "Take a series of the study in Hounsfield units.",
        )


def _in_order(found: Sequence[DicomSeries]) -> list[DicomSeries]:
    """Best first, and of each what else there is."""
    ordered = sorted((series for series in found if not series.left_out), key=_rank)
    among = Counter(series.study for series in ordered)
    studies = len({series.study for series in found if series.has_ct})
    ordered = [replace(each, among=among.pop(each.study, 0)) for each in ordered]
    ordered += sorted(
        (series for series in found if series.left_out),
        # Its reason is told where nothing may be taken: that of a localizer would say little.
        key=lambda series: (not series.has_ct, -len(series.images), *_number(series)),
    )
    return [replace(each, studies=studies) for each in ordered]


def _rank(series: DicomSeries) -> tuple[object, ...]:
    """See `RULE`."""
    stack = series.stack
    if stack is None:  # left out
        return ()
    return (
        not stack.axial, round(stack.spacing_mm[2], 2), -round(stack.extent_mm), *_number(series)
    )  # fmt: skip


def _number(series: DicomSeries) -> tuple[int, str]:
    number = series.images[0].number
    return (2**31 if number is None else number), series.uid or ""
