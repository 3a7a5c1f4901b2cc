"""What got slower, faster or wrong between two results, beyond the noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from ctclip_bench.results.result import Result, Row, Times
from ctclip_client.errors import InvalidInput

TIME_CHANGE = 0.05
FEWEST = 3
"""Runs on either side without which nothing is known of the noise."""
RATE_CHANGE = 0.1
_RATE = "_per_s"


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
    keys = dict.fromkeys((*old, *new))
    return [change for key in keys for change in _changes(old.get(key), new.get(key))]


def different_machines(before: Result, after: Result) -> list[str]:
    """What of the two machines or releases differs, in words; then times compare them, too."""
    found = []
    for names, ours, theirs in (
        (("processor", "cores", "gpu", "memory_gib"), before.machine, after.machine),
        (("geometry", "precision", "config"), before.subject, after.subject),
    ):
        for name in names:
            if ours.get(name) != theirs.get(name):
                a, b = (
                    each["name"] if isinstance(each, Mapping) and "name" in each else each
                    for each in (ours.get(name), theirs.get(name))
                )  # fmt: skip
                found.append(f"{name.replace('_', ' ')}: {a} → {b}")
    return found


def _by_key(result: Result) -> dict[tuple[str, str], Row]:
    """By table and title; ceilings are the machine's."""
    return {(row.table, _title(row)): row for row in result.rows if row.table != "ceilings"}


def _title(row: Row) -> str:
    """Its name with those settings that the name does not tell."""
    more = [f"{key} {value}" for key, value in row.settings.items() if str(value) not in row.name]
    return f"{row.name} ({', '.join(more)})" if more else row.name


def _changes(old: Row | None, new: Row | None) -> Iterator[Change]:
    if new is None or new.not_run:
        if old is not None and not old.not_run:
            yield Change(old.table, _title(old), "gone", new.not_run if new else "")
        return
    change = partial(Change, new.table, _title(new))
    if old is None or old.not_run:
        yield change("new")
        return
    passed = new.parity is not None and new.parity.verdict == "PASS"
    if old.parity and old.parity.verdict == "PASS" and not passed:
        yield change("wrong", new.parity.reason if new.parity else "no parity figure")
    a, b = old.times_ms, new.times_ms
    if a and b:
        verdict = "slower" if _slower(b, a) else "faster" if _slower(a, b) else "same"
        if min(a.n, b.n) < FEWEST:
            verdict = "too few"
        yield change(verdict, "ms", a.p50, b.p50)
    for name, value in old.figures.items():
        other = new.figures.get(name)
        if name.endswith(_RATE) and isinstance(value, int | float) and other is not None:
            slower, faster = other < value * (1 - RATE_CHANGE), other > value * (1 + RATE_CHANGE)
            verdict = "slower" if slower else "faster" if faster else "same"
            what = name.removesuffix(_RATE).replace("_", " ") + " a second"
            yield change(verdict, what, float(value), float(other))


def _slower(one: Times, other: Times) -> bool:
    """Beyond the noise."""
    longer = one.p50 > other.p50 * (1 + TIME_CHANGE)
    return longer and one.p50 > other.p90 and one.least > other.least
