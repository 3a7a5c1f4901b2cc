"""What a run will read: the scans of its paths and lists, each once, before the first is read."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctclip_client.batch.lines import DELIMITERS, read_lines, without_end
from ctclip_client.batch.names import Key, Names
from ctclip_client.errors import CTClipError, InvalidInput, Unreadable
from ctclip_client.readers.find import Scan, find_scans
from ctclip_client.readers.remedies import not_opened
from ctclip_client.readers.walk import files_below
from ctclip_client.system.terminal import say

_LIST_REMEDY = "Expected a CSV with a column 'path', or one path a line."


@dataclass(frozen=True)
class Plan:
    """scans: all, each once, in the order of the command line; keys: theirs. todo: those that are
    to be read, size_bytes in all, and those that are refused already.

    done: how many rows of an earlier run are kept. failed: the kinds of error of its rows that are
    kept as failures. twice: how many were named more than once.
    """

    keys: Sequence[Key]
    scans: Sequence[Scan]
    todo: Sequence[Scan]
    done: int = 0
    failed: tuple[str, ...] = ()
    twice: int = 0
    size_bytes: int = 0

    @property
    def to_read(self) -> int:
        """How many are left to read."""
        return sum(scan.refused is None for scan in self.todo)


def find(paths: Iterable[Path], lists: Path | None, series: str | None) -> Iterator[Scan]:
    """Find the scans of a command line.

    paths: files, folders (searched with all below them), archives. lists: a file of paths. series:
    the one to take of the only path.

    Raises: InvalidInput, Unreadable where a list cannot be read.
    """
    given = [*paths, *(() if lists is None else read_list(lists))]
    if not given:
        raise InvalidInput("no scan is named.", "Give PATH…, or --files LIST.")
    if series is not None and len(given) > 1:
        raise InvalidInput(
            f"--series names one series, and there are {len(given)} paths.",
            "Name the path that holds it alone.",
        )
    for path in given:
        try:
            if series is not None:
                yield _whole(path, series)
            else:
                yield from find_scans(path)
        except CTClipError as error:
            yield Scan(path, None, 0, 0, refused=error)


def make_plan(found: Iterable[Scan], names: Names, settled: Callable[[Scan], str | None]) -> Plan:
    """Say what is to be done.

    settled: says of a scan "" where its result is kept, the kind of its error where its failure is
    kept, None where it is to be read.
    """
    scans: dict[Key, Scan] = {}
    places: set[tuple[Path, str | None]] = set()  # of relative and absolute paths of one file
    todo, failed = [], []
    twice = done = 0
    for scan in found:
        place = (scan.path.absolute(), scan.series)
        if place in places:
            twice += 1
            continue
        places.add(place)
        scans[names.key(scan)] = scan
        state = settled(scan)
        if state is None:
            todo.append(scan)
        elif state:
            failed.append(state)
        else:
            done += 1
    size = sum(scan.size_bytes for scan in todo if scan.refused is None)
    return Plan(tuple(scans), tuple(scans.values()), todo, done, tuple(failed), twice, size)


def read_list(path: Path) -> list[Path]:
    """Paths from a file, each once: the column `path` of a CSV, or a path a line. What is relative
    counts from the list's own folder.

    Raises: Unreadable, InvalidInput.
    """
    lines = read_lines(path, _LIST_REMEDY, errors="surrogateescape")
    if any("\0" in line for line in lines):
        raise Unreadable(f"--files: {path}: not a text file.", _LIST_REMEDY)
    try:
        entries = _column(path, lines)
    except csv.Error as error:
        raise Unreadable(f"--files: {path}: not a CSV ({error}).", _LIST_REMEDY) from error
    if entries is None:
        entries = [without_end(line) for line in lines if line.strip()]
        first = "".join(entries[:1])
        # Path.exists raises where a name is too long, as a line of a table may be.
        is_there = os.path.exists(path.parent / first)  # noqa: PTH110
        if not is_there and any(each in first for each in DELIMITERS):
            # Not its words: where it is no header, they are a patient's.
            raise InvalidInput(
                f"--files: {path}: no column 'path' in its first line, nor is that a path.",
                _LIST_REMEDY,
            )
    if not entries:
        raise InvalidInput(f"--files: {path}: no path in it.", _LIST_REMEDY)
    return [path.parent / entry for entry in dict.fromkeys(entries)]


def _column(path: Path, lines: Sequence[str]) -> Sequence[str] | None:
    """The cells below the header `path`; None where there is no such header. Raises: csv.Error."""
    for delimiter in DELIMITERS:
        first = next(csv.reader(lines[:1], delimiter=delimiter), [])
        header = [cell.strip().lower() for cell in first]
        if "path" in header:
            break
    else:
        return None
    _, *rows = csv.reader(lines, delimiter=delimiter, strict=True)
    cells = [dict(zip(header, row, strict=False)) for row in rows if row]
    if any(row.get("series") for row in cells):
        say(
            f"note: --files: {path}: its column 'series' is not read; ctclip series PATH marks "
            "what is taken of a path."
        )
    if not all(row.get("path") for row in cells):
        raise InvalidInput(f"--files: {path}: a row without a path.", _LIST_REMEDY)
    return [row["path"] for row in cells]


def _whole(path: Path, series: str) -> Scan:
    """A path with all below it, of which one series is to be read. Raises: Unreadable."""
    try:
        files = [path] if not path.is_dir() else list(files_below(path))
        states = [file.stat() for file in files]
    except OSError as error:
        raise not_opened(path, error) from error
    latest_ns = max((state.st_mtime_ns for state in states), default=0)
    return Scan(path, series, sum(state.st_size for state in states), latest_ns)
