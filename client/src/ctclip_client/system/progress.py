"""Progress of long work on standard error: a line and a bar for each stage, and its time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]


@contextmanager
def paused(bars: Progress) -> Iterator[None]:
    """No bar inside, so that something else can be written to the same terminal."""
    if not bars.live.is_started:
        yield
        return
    bars.stop()
    try:
        yield
    finally:
        with suppress(OSError):
            bars.start()


class Stages:
    """Show stages one after another. Where nobody watches (no terminal), print a line for each.

    `timings_ms` holds the duration of every finished stage, in order.
    """

    def __init__(self, *, transient: bool = False) -> None:
        """`transient`: bars disappear from a terminal when they end."""
        self.timings_ms: dict[str, float] = {}
        self._console = Console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=self._console,
            transient=transient,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:  # stop() would print an empty line even if nothing was shown
            with suppress(OSError):  # a terminal that has gone
                self._bars.stop()

    def paused(self) -> AbstractContextManager[None]:
        """See `paused`."""
        return paused(self._bars)

    @contextmanager
    def stage(self, description: str, steps: int | None = None) -> Iterator[Advance]:
        """One stage. `steps` known: calls of the yielded function fill the bar; else it pulses."""
        task = self._bars.add_task(description, total=steps)
        start = time.perf_counter()
        yield lambda count: self._bars.advance(task, count)
        elapsed = time.perf_counter() - start
        self.timings_ms[description] = elapsed * 1000
        total = steps or 1
        self._bars.update(task, total=total, completed=total)
        if not self._console.is_terminal:
            print(f"{description}: {elapsed:.1f} s", file=sys.stderr, flush=True)
