"""Which scans lie under a path, for work on many of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.errors import Unreadable
from ctclip_client.readers.registry import SUFFIXES
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
    files: the DICOM files of its study, where the folder holds others, too; so that thousands of
    studies in one folder are not looked through again for each. refused: why it cannot be read,
    where its headers have said so already; `read_volume` raises it.
    """

    path: Path
    series: str | None
    size_bytes: int
    mtime_ns: int
    files: tuple[Path, ...] = field(default=(), repr=False)
    refused: Unreadable | None = None


def find_scans(path: Path) -> Iterator[Scan]:
    """Find the scans of a path, in order of their names.

    A file is one scan, an archive, too. A folder is searched with all that is below it (see
    `files_below`): every file that is named like a scan is one, and of DICOM files each study
    gives one scan, namely the series that `ctclip series` marks. Where it marks none, and the
    study has CT images, the scan is the one that comes nearest, and `refused` says why it is not
    read. DICOM files that are damaged are scans, too, and so is whatever cannot be looked into, so
    that they fail by their names; studies without CT images are none.

    Raises: Unreadable where nothing is there, or nothing that is a scan; OSError.
    """
    if not path.is_dir():
        yield _scan(path)
        return
    closed: Closed = []
    files = list(files_below(path, closed))
    named = [file for file in files if file.name.lower().endswith(SUFFIXES)]
    found = [*map(_scan, named), *_dicom_scans(files, closed)]
    known = set(named)  # which fail by themselves
    found += (Scan(each, None, 0, 0, refused=why) for each, why in closed if each not in known)
    scans = sorted(found, key=lambda scan: (scan.path, scan.series or ""))
    if not scans:
        raise Unreadable(
            f"{path}: a folder without a scan.",
            f"Expected DICOM files with CT images, or files that end in {', '.join(SUFFIXES)}.",
        )
    yield from scans


def _scan(path: Path) -> Scan:
    state = path.stat()
    return Scan(path, None, state.st_size, state.st_mtime_ns)


def _dicom_scans(paths: Sequence[Path], closed: Closed) -> Iterator[Scan]:
    from ctclip_client.readers.dicom.series import dicom_files, preferred, refusal, series_of

    files = list(dicom_files(paths, closed))
    if not files:
        return  # pydicom need not be installed
    files_below_of = Counter(parent for file in files for parent in file.parents)
    found = series_of(files, closed)
    closed_paths = {path for path, _ in closed}
    damaged = [path for path, _ in found.damaged if path not in closed_paths]
    taken = preferred(found)
    for study, series in _by_study(found).items():
        if not any(each.has_ct for each in series):
            continue
        images = [image for each in series for image in each.images]
        path = _folder(images)
        # What is damaged or closed may be a slice of it: who reads it says so.
        near = [each for each in damaged if path in each.parents]
        doubtful = any(path in each.parents for each in closed_paths)
        seen = (*(image.path for image in images), *near)
        best = taken.get(study, series[0])
        yield Scan(
            path,
            best.uid,
            sum(image.size_bytes for image in best.images),
            max(image.mtime_ns for image in best.images),
            files=seen if files_below_of[path] > len(seen) and not doubtful else (),
            refused=None if study in taken else refusal(path, best),
        )
    yield from map(_scan, damaged)


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
