"""Which scans lie under a path, for work on many of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctclip_client.errors import Unreadable
from ctclip_client.readers.registry import SUFFIXES


@dataclass(frozen=True)
class Scan:
    """What `read_volume(path, series=…)` will read.

    path: a file or a folder. series: a SeriesInstanceUID, None where the path holds one scan.
    size_bytes, mtime_ns: of the file (of a series: the sum of all, and the latest), by which a
    later run knows whether it has changed.
    """

    path: Path
    series: str | None
    size_bytes: int
    mtime_ns: int


def find_scans(path: Path) -> Iterator[Scan]:
    """Find the scans of a path, in order of their names: a file is one scan; a folder is searched
    with all that is below it.

    Raises: Unreadable where nothing is there, or nothing that is a scan; OSError.
    """
    if not path.is_dir():
        yield _scan(path)
        return
    found = [
        file for file in sorted(path.rglob("*"))
        if file.name.lower().endswith(SUFFIXES) and file.is_file()
    ]  # fmt: skip
    if not found:
        raise Unreadable(
            f"{path}: a folder without a scan.",
            f"Expected files that end in {', '.join(SUFFIXES)}.",
        )
    yield from map(_scan, found)


def _scan(path: Path) -> Scan:
    state = path.stat()
    return Scan(path, None, state.st_size, state.st_mtime_ns)
