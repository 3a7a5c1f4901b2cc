"""What rows say of a phase as a whole: its verdict, and whether anything was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ctclip_bench.results.result import Parity, Row

NOT_COUNTED = {"verdict_counts": False}
"""Among the settings of a row that is measured to show that it differs."""


def verdict_of(phase: str, rows: Sequence[Row]) -> tuple[Parity, ...]:
    """The worst parity of a phase's rows that count, one or none."""
    counted = [
        (row.name, row.parity)
        for row in rows
        if row.parity is not None and not NOT_COUNTED.items() <= row.settings.items()
    ]
    if not counted:
        return ()
    name, worst = max(counted, key=lambda each: _badness(each[1]))
    agreeing = sum(parity.verdict == "PASS" for _, parity in counted)
    said = [f"{agreeing} of {len(counted)} agree", *([worst.reason] if worst.reason else [])]
    against = f"{worst.against} ({phase}; the worst: {name})"
    return (replace(worst, against=against, reason="; ".join(said)),)


def measured(row: Row) -> bool:
    """Whether it has a time, a verdict or a number, and not versions alone."""
    numbers = (
        value for value in row.figures.values()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )  # fmt: skip
    return row.times_ms is not None or row.parity is not None or next(numbers, None) is not None


def _badness(parity: Parity) -> tuple[bool, float, float, float]:
    """Larger is worse; what a row does not show is nothing."""
    codes, cosine = (1.0 if x is None else x for x in (parity.codes_agree, parity.cosine))
    failed = parity.verdict != "PASS"
    return failed, 1 - codes, 1 - cosine, parity.probability_difference or 0.0
