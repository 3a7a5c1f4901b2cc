"""Which scans lie under a path, for work on many of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.errors import CTClipError, Unreadable
from ctclip_client.readers.registry import SUFFIXES
from ctclip_client.readers.remedies import not_opened
from ctclip_client.readers.walk import Closed, files_below

if TYPE_CHECKING:
    from ctclip_client.readers.dicom.header import Image
    from ctclip_client.readers.dicom.series import DicomSeries, Found


@dataclass(frozen=True)
class Scan:
    """One scan, as `read_volume` takes it.

    path: a file or a folder. series: a SeriesInstanceUID, None where the path holds one scan.
    size_bytes, mtime_ns: of the file (of a series: the sum of all, and the latest), by which a
    later run knows whether it has changed.
    files: all of a DICOM study, by their names below `path`, so that a folder with thousands of
    studies is not searched again for each. unread_beside: how many files and folders below `path`
    cannot be read, and may be of any study there. refused: why the scan is not read, where that is
    known by now; `read_volume` raises it.
    """

    path: Path
    series: str | None
    size_bytes: int
    mtime_ns: int
    files: tuple[str, ...] = field(default=(), repr=False)
    unread_beside: int = 0
    refused: CTClipError | None = field(default=None, compare=False)


def find_scans(path: str | os.PathLike[str]) -> Iterator[Scan]:
    """Find the scans of a path, in order of their names.

    A file is one scan, an archive, too. A folder is searched with all that is below it (see
    `files_below`): every file that is named like a scan is one, and of DICOM files each study
    gives one scan, namely the series that `ctclip series` marks. Where it marks none, and the
    study has CT images, the scan is the one that comes nearest, and `refused` says why it is not
    read. DICOM files that are damaged are scans, too, and so is whatever cannot be looked into, so
    that they fail by their names; studies without CT images are none. A study that has a folder to
    itself is refused where anything in it cannot be read: that may be a slice.

    Raises: Unreadable where nothing is there, or nothing that is a scan.
    """
    path = Path(path)
    try:
        found = _below(path) if path.is_dir() else [_scan(path)]
    except (OSError, ValueError) as error:
        raise not_opened(path, error) from error
    if not found:
        raise Unreadable(
            f"{path}: a folder without a scan.",
            f"Expected DICOM files with CT images, or files that end in {', '.join(SUFFIXES)}.",
        )
    yield from found


def _below(folder: Path) -> list[Scan]:
    closed: Closed = []
    files = list(files_below(folder, closed))
    named = {file for file in files if file.name.lower().endswith(SUFFIXES)}
    found = [*map(_scan, named), *_dicom_scans(files, closed)]
    # Those that are named like scans fail by themselves.
    found += (Scan(each, None, 0, 0, refused=why) for each, why in closed if each not in named)
    return sorted(found, key=lambda scan: (scan.path, scan.series or ""))


def _scan(path: Path) -> Scan:
    state = path.stat()
    return Scan(path, None, state.st_size, state.st_mtime_ns)


def _dicom_scans(paths: Sequence[Path], closed: Closed) -> Iterator[Scan]:
    from ctclip_client.readers.dicom.series import dicom_files, preferred, refusal, series_of

    files = list(dicom_files(paths, closed))
    if not files:
        return  # pydicom need not be installed
    found = series_of(files, closed)
    taken = preferred(found)
    unread_below = Counter(parent for path, _ in found.damaged for parent in path.parents)
    images_below = Counter(
        parent for series in found.series for image in series.images
        for parent in image.path.parents
    )  # fmt: skip
    for study, series in _by_study(found).items():
        if not any(each.has_ct for each in series):
            continue
        images = [image for each in series for image in each.images]
        path = _folder(images)
        best = taken.get(study, series[0])
        refused = None if study in taken else refusal(path, best)
        if not refused and unread_below[path] and images_below[path] == len(images):
            refused = next(why for each, why in found.damaged if path in each.parents)
        yield Scan(
            path,
            best.uid,
            sum(image.size_bytes for image in best.images),
            max(image.mtime_ns for image in best.images),
            files=tuple(str(image.path.relative_to(path)) for image in images),
            unread_beside=unread_below[path],
            refused=refused,
        )
    closed_paths = {path for path, _ in closed}
    yield from (_scan(path) for path, _ in found.damaged if path not in closed_paths)


def _by_study(found: Found) -> dict[str, list[DicomSeries]]:
    studies: dict[str, list[DicomSeries]] = {}
    for series in found.series:
        studies.setdefault(series.study, []).append(series)
    return studies


def _folder(study: Sequence[Image]) -> Path:
    """Where all of a study lies: whoever reads it says what else there was to choose from."""
    if len(study) == 1:
        return study[0].path
    return Path(os.path.commonpath([image.path.parent for image in study]))
