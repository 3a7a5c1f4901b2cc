"""The scans of a command line: read one ahead, and told apart by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Generic, TypeVar

from ctclip_client.readers import SUFFIXES

T = TypeVar("T")


class Reading(Generic[T]):
    """Work on one scan, in a thread that Ctrl-C need not wait for."""

    def __init__(self, work: Callable[[Path], T], path: Path) -> None:
        self._done: list[T] = []
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(work, path), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when it is done, well or not."""
        self._thread.join()

    def take(self) -> T:
        """What the work returned or raised, once: nothing of it is kept here."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._done.pop()

    def _run(self, work: Callable[[Path], T], path: Path) -> None:
        try:
            self._done.append(work(path))
        except BaseException as error:  # noqa: BLE001 (raised where the result is taken)
            self._error = error


def ahead(paths: Sequence[Path], work: Callable[[Path], T]) -> Iterator[tuple[Path, Reading[T]]]:
    """Work on each scan while the caller is busy with the one before: two at most in memory."""
    upcoming = Reading(work, paths[0])
    for index, path in enumerate(paths):
        current = upcoming
        current.wait()
        if index + 1 < len(paths):
            upcoming = Reading(work, paths[index + 1])
        yield path, current


def folder_names(paths: Sequence[Path]) -> dict[Path, Path]:
    """A folder for each scan: its name without .nii.gz, below the folders that tell scans apart.

    `a/ct.nii.gz` and `b/ct.nii.gz` become `a/ct` and `b/ct`; two scans of one folder that would
    share a name keep their suffixes.
    """
    absolute = {path: Path(os.path.abspath(path)) for path in paths}  # noqa: PTH100 (no links)
    common = os.path.commonpath([path.parent for path in absolute.values()])
    short = {path: path.parent.relative_to(common) / _stem(path) for path in absolute.values()}
    taken = Counter(short.values())
    return {
        given: short[path] if taken[short[path]] == 1 else short[path].with_name(path.name)
        for given, path in absolute.items()
    }


def _stem(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.name
