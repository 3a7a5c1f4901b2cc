"""Memory that processes take, by the kernel, and their seconds of a core."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

import psutil

T = TypeVar("T")
INTERVAL_S = 0.25
_STUB = "triton_python_backend_stub"


def process_memory(process_id: int) -> dict[str, int]:
    """Bytes of main memory of a process and of each of its descendants, by what they are.

    The kernel's proportional set size: pages that Triton and its Python processes share are counted
    once, where a sum of resident sizes would count them in each.
    """
    found: dict[str, int] = {}
    for name, size in _of_family(process_id, lambda p: (_name(p), p.memory_full_info().pss)):
        found[name] = found.get(name, 0) + int(size)
    return found


def core_seconds(process_id: int) -> float:
    """Seconds of a core that a process and its descendants have had, user and system."""
    return sum(_of_family(process_id, lambda p: p.cpu_times().user + p.cpu_times().system))


def _of_family(process_id: int, read: Callable[[psutil.Process], T]) -> Iterator[T]:
    """What can be read of each: one may end meanwhile, or be another user's."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(process_id)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                yield read(process)


def _name(process: psutil.Process) -> str:
    """ "tritonserver", or for a Python model's process "Python of ctclip_check"."""
    command = process.cmdline()
    if command and Path(command[0]).name == _STUB and len(command) > 1:
        return f"Python of {Path(command[1]).parent.parent.name}"
    return process.name()


class Peaks:
    """Read sizes, bytes by name, again and again while the block lasts. `gib`: the largest of each
    name that was ever there."""

    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self.gib: dict[str, float] = {}
        self._read = read
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._note()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._note()

    def _note(self) -> None:
        for name, size in self._read().items():
            self.gib[name] = max(size / 2**30, self.gib.get(name, 0.0))

    def _watch(self) -> None:
        while not self._end.wait(INTERVAL_S):
            self._note()
