"""What got slower, faster or wrong between two results, beyond the noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctclip_bench.results.result import Result, Row
from ctclip_client.errors import InvalidInput

TIME_CHANGE = 0.05
FEWEST = 3
"""Runs on either side without which nothing is known of the noise."""
RATE_CHANGE = 0.1
_RATE = "_per_s"
_CEILINGS = "ceilings"


@dataclass(frozen=True)
class Change:
    """One row, before and after. ratio: after / before, of times or of rates.

    verdict: "slower", "faster", "same", "too few" (runs, to know the noise), "wrong" (parity no
    longer PASS), "gone" (no longer measured) or "new".
    """

    table: str
    name: str
    verdict: str
    what: str = ""
    before: float | None = None
    after: float | None = None

    @property
    def ratio(self) -> float | None:
        """None where there are no two numbers."""
        return None if not self.before or self.after is None else self.after / self.before


def compare(before: Result, after: Result) -> list[Change]:
    """Row by row: the same table, name and settings.

    A time is slower where its median is 5 % above the other's, above the other's p90, and its
    least is above the other's least; each of three runs at least. A rate has no spread: it is
    slower where it is 10 % below.
    Raises: InvalidInput for results of two kinds.
    """
    if before.kind != after.kind:
        raise InvalidInput(
            f"one result is of '{before.kind}', the other of '{after.kind}'.",
            "Compare two of the same word of ctclip bench.",
        )
    old, new = _by_key(before), _by_key(after)
    changes = []
    for key, row in old.items():
        if key in new:
            changes += _changes(row, new[key])
        elif not row.not_run:
            changes.append(Change(row.table, _title(row), "gone"))
    changes += [
        Change(row.table, _title(row), "new")
        for key, row in new.items()
        if key not in old and not row.not_run
    ]
    return changes


def different_machines(before: Result, after: Result) -> list[str]:
    """What of the two machines or releases differs, in words; then times compare them, too."""
    found = []
    for name in ("processor", "cores", "gpu", "memory_gib"):
        ours, theirs = before.machine.get(name), after.machine.get(name)
        if ours != theirs:
            found.append(f"{name.replace('_', ' ')}: {_short(ours)} → {_short(theirs)}")
    for name in ("geometry", "precision", "config"):
        ours, theirs = before.subject.get(name), after.subject.get(name)
        if ours != theirs:
            found.append(f"{name}: {_short(ours)} → {_short(theirs)}")
    return found


def _short(value: Any) -> str:
    return str(value["name"] if isinstance(value, Mapping) and "name" in value else value)


def _by_key(result: Result) -> dict[str, Row]:
    return {
        f"{row.table}\n{_title(row)}": row for row in result.rows if row.table != _CEILINGS
    }  # ceilings are the machine's


def _title(row: Row) -> str:
    """Its name with those settings that the name does not tell."""
    more = [f"{key} {value}" for key, value in row.settings.items() if str(value) not in row.name]
    return f"{row.name} ({', '.join(more)})" if more else row.name


def _changes(old: Row, new: Row) -> list[Change]:
    title = _title(old)
    if new.not_run:
        return [] if old.not_run else [Change(old.table, title, "gone", new.not_run)]
    if old.not_run:
        return [Change(old.table, title, "new")]
    found = []
    if (
        old.parity
        and old.parity.verdict == "PASS"
        and (new.parity is None or new.parity.verdict != "PASS")
    ):
        reason = "no parity figure" if new.parity is None else new.parity.reason
        found.append(Change(old.table, title, "wrong", reason))
    a, b = old.times_ms, new.times_ms
    if a and b:
        verdict = "same"
        if min(a.n, b.n) < FEWEST:
            verdict = "too few"
        elif b.p50 > a.p50 * (1 + TIME_CHANGE) and b.p50 > a.p90 and b.least > a.least:
            verdict = "slower"
        elif a.p50 > b.p50 * (1 + TIME_CHANGE) and a.p50 > b.p90 and a.least > b.least:
            verdict = "faster"
        found.append(Change(old.table, title, verdict, "ms", a.p50, b.p50))
    for name, value in old.figures.items():
        other = new.figures.get(name)
        if name.endswith(_RATE) and isinstance(value, int | float) and other is not None:
            verdict = "same"
            if other < value * (1 - RATE_CHANGE):
                verdict = "slower"
            elif other > value * (1 + RATE_CHANGE):
                verdict = "faster"
            what = name.removesuffix(_RATE).replace("_", " ") + " a second"
            found.append(Change(old.table, title, verdict, what, float(value), float(other)))
    return found
