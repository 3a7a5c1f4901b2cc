"""Rows of one phase, told as soon as they are there: a phase that is cut off keeps them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from ctclip_bench.results.cells import cells
from ctclip_bench.results.result import Parity, Row, Times
from ctclip_client.errors import CTClipError
from ctclip_client.system.terminal import printable

WHOLE = "the whole phase"
"""Name of the row that says why a phase did not come to its end, or did not begin."""
NO_MEMORY = "the GPU has too little memory"
"""Why a part of a phase was NOT RUN that may well run the next time."""
_NOT_COUNTED = {"verdict_counts": False}
"""Among the settings of a row that is measured to show that it differs."""


_OURS = ("ctclip_bench", "ctclip_client", "ctclip_export")
"""What `bench gpu` cannot do without."""


class Missing(Exception):
    """This machine lacks what a measurement needs: it is NOT RUN, and that is no failure."""


@dataclass(frozen=True)
class Rows:
    """Adds rows to the table of one phase. tell: takes a row, and whether it makes the phase a
    failed one.
    """

    table: str
    tell: Callable[[Row, bool], None]

    def add(
        self,
        name: str,
        milliseconds: Sequence[float] = (),
        *,
        parity: Parity | None = None,
        settings: dict[str, Any] | None = None,
        counted: bool = True,
        **figures: Any,
    ) -> None:
        """counted: whether a parity that is no PASS makes the phase fail and takes the times away,
        since what answers wrongly has no speed; False for what is measured to show that it differs
        (TF32), whose settings say so.
        """
        settings = dict(settings or {})
        if parity is not None and not counted:
            settings |= _NOT_COUNTED
        failed = counted and parity is not None and parity.verdict != "PASS"
        times = Times.of(milliseconds) if len(milliseconds) and not failed else None
        if failed:
            figures = {key: each for key, each in figures.items() if not key.endswith("_ms")}
        self.tell(Row(self.table, name, settings, times, parity, figures), failed)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """A part of a phase; where it cannot be done, say why and go on after the block.

        What this machine lacks, or has too little memory for, is no failure.
        """
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            self.tell(Row(self.table, name, not_run=NO_MEMORY), False)
        except Exception as error:  # noqa: BLE001 (one graph that fails must not hide the others)
            if is_missing(error):
                self.tell(Row(self.table, name, not_run=str(error)), False)
                return
            traceback.print_exc()  # a GPU is often lent once: all that can be known of it
            self.tell(Row(self.table, name, not_run=reason_of(error)), True)


def is_missing(error: Exception) -> bool:
    """Whether this machine lacks something; a module of ours that is not there is a fault."""
    if isinstance(error, ModuleNotFoundError):
        return not (error.name or "").startswith(_OURS)
    return isinstance(error, Missing)


def reason_of(error: Exception) -> str:
    """An exception in one line, with where it was raised."""
    if isinstance(error, CTClipError):
        return error.cause
    last = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0][:400]
    return f"{type(error).__name__}: {first} ({last.name}, line {last.lineno})"


def line(row: Row) -> str:
    """A row as plain text: where a GPU is measured, nothing more than Python may be there."""
    if row.not_run:
        return printable(f"  {row.name}: NOT RUN: {row.not_run}")
    told = "; ".join(f"{name} {text}" for name, text in cells(row).items() if name and text)
    reason = f" ({row.parity.reason})" if row.parity and row.parity.reason else ""
    return printable(f"  {row.name}: {told}{reason}")


def measured(row: Row) -> bool:
    """Whether it has a time, a verdict or a number, and not versions alone."""
    number = any(
        isinstance(value, int | float) and not isinstance(value, bool)
        for value in row.figures.values()
    )
    return row.times_ms is not None or row.parity is not None or number


def verdict_of(phase: str, rows: Sequence[Row]) -> tuple[Parity, ...]:
    """The worst parity of a phase's rows that count, one or none."""
    counted = [
        (row.name, row.parity)
        for row in rows
        if row.parity is not None and not _NOT_COUNTED.items() <= row.settings.items()
    ]
    if not counted:
        return ()
    name, worst = max(counted, key=lambda each: _badness(each[1]))
    agreeing = sum(parity.verdict == "PASS" for _, parity in counted)
    said = [f"{agreeing} of {len(counted)} agree", *([worst.reason] if worst.reason else [])]
    against = f"{worst.against} ({phase}; the worst: {name})"
    return (replace(worst, against=against, reason="; ".join(said)),)


def _badness(parity: Parity) -> tuple[bool, float, float, float]:
    """Larger is worse; what a row does not show is nothing."""
    codes, cosine = (1.0 if x is None else x for x in (parity.codes_agree, parity.cosine))
    failed = parity.verdict != "PASS"
    return failed, 1 - codes, 1 - cosine, parity.probability_difference or 0.0
