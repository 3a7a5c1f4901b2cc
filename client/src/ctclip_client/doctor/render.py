"""A report for a person: a line a check, in colour on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TextIO

from rich.console import Console
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
    console = Console(file=out, markup=False, highlight=False, emoji=False, soft_wrap=True)
    console.print(Text(printable(f"{report.target}: {report.recognised_as}"), "bold"))
    for check in _collapsed(report.checks):
        verdict = (f"{check.verdict:<8} ", _STYLES[check.verdict])
        console.print(Text.assemble(verdict, printable(f"{check.title}: {check.detail}")))
        if check.remedy:
            console.print(Text(f"{'':<8} → {printable(check.remedy)}", "bold"))
    counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts().items() if count)
    console.print(Text(f"{report.verdict.value}: {counts}", _STYLES[report.verdict]))


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
