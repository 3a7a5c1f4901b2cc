"""Memory that the server takes: on the GPU by the driver, in main memory by the kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import psutil

from ctclip_export.engines.gpu import NoGpu, read_gpu

INTERVAL_S = 1.0

Reader = Callable[[], int | None]


@dataclass(frozen=True)
class Usage:
    """Bytes before the server or the load began, at most while it lasted, and afterwards."""

    before_bytes: int
    most_bytes: int
    after_bytes: int


def gpu_memory() -> int | None:
    """Bytes in use on the first visible GPU, by all that runs there; None without a GPU."""
    try:
        return read_gpu().memory_used_bytes
    except NoGpu:
        return None


def process_memory(process_id: int) -> int | None:
    """Bytes of main memory that a process and its descendants take, None if it has gone.

    The kernel's proportional set size: pages that Triton and its Python processes share are counted
    once, where a sum of resident sizes would count them in each.
    """
    try:
        root = psutil.Process(process_id)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    sizes = [size for size in map(_proportional, family) if size is not None]
    return sum(sizes) if sizes else None


def _proportional(process: psutil.Process) -> int | None:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it ended while we looked, or is another user's
        return None


class Watch:
    """Read a size again and again while the block lasts. `usage` afterwards: None if unknown.

    before_bytes: a reading from earlier on, if the block begins when memory is taken already.
    """

    def __init__(
        self, read: Reader, before_bytes: int | None = None, interval_s: float = INTERVAL_S
    ) -> None:
        self.usage: Usage | None = None
        self._read = read
        self._before = before_bytes
        self._interval_s = interval_s
        self._most = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        first = self._read()
        if first is not None:
            self._before = first if self._before is None else self._before
            self._most = max(first, self._before)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._thread.is_alive():
            return
        self._end.set()
        self._thread.join()
        after = self._read()
        if after is not None and self._before is not None:
            self.usage = Usage(self._before, max(self._most, after), after)

    def _watch(self) -> None:
        while not self._end.wait(self._interval_s):
            size = self._read()
            if size is None:
                return  # the server is gone; __exit__ sees the same
            self._most = max(self._most, size)
