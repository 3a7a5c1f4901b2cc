"""Progress of a run on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, suppress
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from ctclip_client.system.progress import paused

LINE_INTERVAL_S = 30.0
_RATES = ((1, "s"), (60, "min"), (3600, "h"))
_TIMES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
"""Seconds of each, and its name."""


class Counter:
    """How many of a run's scans or texts are through, how fast, and how long the rest will take.

    total: None shows only that something happens.
    """

    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total = description, total
        self._console = Console(stderr=True)
        columns: list[ProgressColumn] = [
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24),
        ]  # fmt: skip
        if total is not None:
            columns += [MofNCompleteColumn(), _Rate()]
        self._bars = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
        self._task = self._bars.add_task(description, total=total)
        self._started = self._told = time.monotonic()
        self._done = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars.live.is_started:
            with suppress(OSError):  # a terminal that has gone
                self._bars.stop()

    def paused(self) -> AbstractContextManager[None]:
        """No bar inside, so that something else can be written to the same terminal."""
        return paused(self._bars)

    def say(self, line: str) -> None:
        """Print a line to standard error, from any thread."""
        with self.paused():
            print(line, file=sys.stderr, flush=True)

    def advance(self, count: int = 1) -> None:
        """So many more are through."""
        self._done += count
        self._bars.advance(self._task, count)
        now = time.monotonic()
        if self._console.is_terminal or now - self._told < LINE_INTERVAL_S:
            return
        self._told = now
        if self._total is not None and self._done < self._total:
            told = pace(self._done, self._total, now - self._started)
            print(f"{self._description}: {self._done:,} of {self._total:,}, {told}",
                  file=sys.stderr, flush=True)  # fmt: skip


def pace(done: int, total: int, elapsed_s: float) -> str:
    """ "1.2/s, 3 min left"; of what is slower, "4.0/min" and the like."""
    rate = done / max(elapsed_s, 1e-9)
    per, unit = next((u for u in _RATES if rate * u[0] >= 1), _RATES[-1])
    left_s = (total - done) / rate
    size, name = next((u for u in _TIMES if left_s >= 2 * u[0]), _TIMES[-1])
    return f"{rate * per:.1f}/{unit}, {left_s / size:.0f} {name} left"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        if not task.completed or task.total is None or task.elapsed is None:
            return Text("")
        return Text(pace(int(task.completed), int(task.total), task.elapsed))
