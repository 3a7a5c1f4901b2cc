"""Memory that processes take, in main memory by the kernel, on the GPU by the driver; and their
seconds of a core."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import psutil

from ctclip_export.engines.gpu import NoGpu, read_gpu

INTERVAL_S = 0.25
_STUB = "triton_python_backend_stub"

Reader = Callable[[], Mapping[str, int]]
"""Bytes by name; what is not there is left out."""


def gpu_memory() -> int | None:
    """Bytes in use on the first visible GPU, by all that runs there; None without a GPU."""
    try:
        return read_gpu().memory_used_bytes
    except NoGpu:
        return None


def process_memory(process_id: int) -> dict[str, int]:
    """Bytes of main memory of a process and of each of its descendants, by what they are.

    The kernel's proportional set size: pages that Triton and its Python processes share are counted
    once, where a sum of resident sizes would count them in each.
    """
    found: dict[str, int] = {}
    for process in _family(process_id):
        try:
            size = int(process.memory_full_info().pss)
            name = _name(process)
        except psutil.Error:  # it ended while we looked, or is another user's
            continue
        found[name] = found.get(name, 0) + size
    return found


def core_seconds(process_id: int) -> float:
    """Seconds of a core that a process and its descendants have had, user and system."""
    total = 0.0
    for process in _family(process_id):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def _family(process_id: int) -> Iterator[psutil.Process]:
    try:
        root = psutil.Process(process_id)
        yield from [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return


def _name(process: psutil.Process) -> str:
    """ "tritonserver", or for a Python model's process "Python of ctclip_check"."""
    command = process.cmdline()
    if command and Path(command[0]).name == _STUB and len(command) > 1:
        return f"Python of {Path(command[1]).parent.parent.name}"
    return process.name()


class Peaks:
    """Read sizes again and again while the block lasts. `bytes`: the largest of each name."""

    def __init__(self, read: Reader, interval_s: float = INTERVAL_S) -> None:
        self.bytes: dict[str, int] = {}
        self._read = read
        self._interval_s = interval_s
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

    def gib(self, name: str) -> float | None:
        """The largest of one name, None where it was never there."""
        size = self.bytes.get(name)
        return None if size is None else size / 2**30

    def _note(self) -> None:
        for name, size in self._read().items():
            self.bytes[name] = max(size, self.bytes.get(name, 0))

    def _watch(self) -> None:
        while not self._end.wait(self._interval_s):
            self._note()
