"""Rows of one phase, told as soon as they are there: a phase that is cut off keeps them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ctclip_bench.gpu.verdicts import NOT_COUNTED
from ctclip_bench.gpu.worker import NO_MEMORY
from ctclip_bench.results.result import Parity, Row, Times
from ctclip_client.errors import CTClipError

Tell = Callable[[Row, bool], None]
"""Takes a row, and whether it makes the phase a failed one."""


class Missing(Exception):
    """This machine lacks what a measurement needs: it is NOT RUN, and that is no failure."""


@dataclass(frozen=True)
class Rows:
    """Adds rows to the table of one phase."""

    table: str
    tell: Tell

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
            settings |= NOT_COUNTED
        failed = counted and parity is not None and parity.verdict != "PASS"
        times = Times.of(milliseconds) if len(milliseconds) and not failed else None
        if failed:
            figures = {key: each for key, each in figures.items() if not key.endswith("_ms")}
        self.tell(Row(self.table, name, settings, times, parity, figures), failed)

    def attempt(self, name: str, work: Callable[[], None]) -> bool:
        """Do a part of a phase; where it cannot be done, say why and go on. Whether it was done.

        What this machine has too little memory for, or not at all, is no failure.
        """
        try:
            work()
        except Missing as reason:
            self.tell(Row(self.table, name, not_run=str(reason)), False)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            self.tell(Row(self.table, name, not_run=NO_MEMORY), False)
        except Exception as error:  # noqa: BLE001 (one graph that fails must not hide the others)
            traceback.print_exc()  # a GPU is often lent once: all that can be known of it
            self.tell(Row(self.table, name, not_run=reason_of(error)), True)
        else:
            return True
        return False


def reason_of(error: Exception) -> str:
    """An exception in one line, with where it was raised."""
    if isinstance(error, CTClipError):
        return error.cause
    last = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0][:400]
    return f"{type(error).__name__}: {first} ({last.name}, line {last.lineno})"
