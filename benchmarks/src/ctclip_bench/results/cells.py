"""A row of a result as words and numbers, for a terminal, a page or a Markdown file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctclip_bench.results.result import Row

Cells = dict[str, str]
"""Column -> text, in the order of the columns."""


def cells(row: Row) -> Cells:
    """What a row says, its name first; columns that it has nothing for are missing, and what is no
    single value, which the JSON keeps.
    """
    found = {"": row.name}
    found |= _single(row.settings)
    if row.times_ms is not None:
        times = row.times_ms
        found |= {
            "n": str(times.n),
            "p50 ms": number(times.p50),
            "p90 ms": number(times.p90),
            "p99 ms": number(times.p99),
        }
    found |= _single(row.figures)
    if row.parity is not None:
        told = row.parity
        found["parity"] = told.verdict
        if told.codes_agree is not None:
            found["codes"] = f"{told.codes_agree:.3%}"
        if told.cosine is not None:
            found["cosine"] = f"{told.cosine:.6f}"
        for name, value in (
            ("|Δlogit|", told.logit_difference),
            ("|Δprob.|", told.probability_difference),
        ):
            if value is not None:
                found[name] = f"{value:.1e}"
    if row.not_run:
        found["not run"] = row.not_run
    return found


def _single(values: Mapping[str, Any]) -> Cells:
    return {
        key.replace("_", " "): number(value)
        for key, value in values.items()
        if not isinstance(value, Mapping | list)
    }


def columns(rows: Sequence[Cells]) -> list[str]:
    """All columns of a table, each where it first comes."""
    return list(dict.fromkeys(name for row in rows for name in row))


def number(value: Any) -> str:
    """Three significant figures of a float, from a million with a prefix; others as they are."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
            if abs(value) >= scale:
                return f"{value / scale:.3g} {prefix}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return " × ".join(number(each) for each in value)
    return str(value)


def markdown(rows: Sequence[Cells]) -> str:
    """A table in Markdown; numbers to the right."""
    names = columns(rows)
    text = [[_escaped(row.get(name, "")) for name in names] for row in rows]
    right = [
        all(_is_number(line[at]) for line in text if line[at]) and at > 0
        for at in range(len(names))
    ]
    lines = [
        "| " + " | ".join(map(_escaped, names)) + " |",
        "|" + "|".join("---:" if each else "---" for each in right) + "|",
        *("| " + " | ".join(line) + " |" for line in text),
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """A bar ends a cell, a line a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-+"
