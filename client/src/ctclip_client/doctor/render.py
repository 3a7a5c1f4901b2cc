"""A report for a person: a table on a terminal, a line a check elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctclip_client.doctor.report import Check, Report, Verdict
from ctclip_client.system.terminal import printable

_STYLES = {
    Verdict.PASS: "green",
    Verdict.WARN: "yellow",
    Verdict.FAIL: "bold red",
    Verdict.NOT_RUN: "dim",
}
_COLLAPSE = 3


def render(report: Report, out: TextIO) -> None:
    """Print a report. Passes that differ only in the part they are about share a line."""
    # Names of files and words of a server are shown as they are: no markup, no emoji codes.
    console = Console(file=out, markup=False, highlight=False, emoji=False)
    checks = list(_collapsed(report.checks))
    head = f"{printable(report.target)}: {printable(report.recognised_as)}"
    if console.is_terminal:
        console.print(Text(head, "bold"))
        console.print(_table(checks))
        console.print(Text(_summary(report), _STYLES[report.verdict]))
        return
    print(head, file=out)
    for check in checks:
        print(f"{check.verdict:<8} {printable(check.title)}: {printable(check.detail)}", file=out)
        if check.remedy:
            print(f"{'':<8} → {printable(check.remedy)}", file=out)
    print(_summary(report), file=out)


def _table(checks: list[Check]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column("Check", overflow="fold")
    table.add_column("What was seen", overflow="fold")
    for check in checks:
        seen = Text(printable(check.detail))
        if check.remedy:
            seen.append(f"\n→ {printable(check.remedy)}", "bold")
        style = _STYLES[check.verdict]
        table.add_row(Text(check.verdict.value, style), Text(printable(check.title)), seen)
    return table


def _collapsed(checks: Sequence[Check]) -> Iterator[Check]:
    def same(check: Check) -> tuple[object, ...]:
        # Anything but a pass stands alone, so that its remedy does too.
        alone = id(check) if check.verdict is not Verdict.PASS or not check.about else None
        return check.name, check.detail, alone

    for _, group in groupby(checks, key=same):
        members = list(group)
        if len(members) < _COLLAPSE:
            yield from members
        else:
            parts = ", ".join(check.about for check in members)
            yield replace(members[0], about="", detail=f"{members[0].detail} ({parts})")


def _summary(report: Report) -> str:
    counts = report.counts()
    parts = [f"{counts[v.value]} {v.value}" for v in Verdict if counts[v.value]]
    return f"{report.verdict.value}: {', '.join(parts)}"
