"""A parity check as a table, as JSON and as a page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ctclip_bench.machine import describe_machine
from ctclip_bench.parity.auroc import Auroc
from ctclip_bench.parity.run import FinishedCheck
from ctclip_export.parity.judge import StepVerdict

COLUMNS = (
    "step", "codes", "margin", "allowed", "cosine", "texts", "|Δlogit|", "|Δprob.|", "Spearman",
    "verdict",
)  # fmt: skip


def row(verdict: StepVerdict) -> tuple[str, ...]:
    """One line of the table. margin: the reference's, where codes differ; allowed: twice the error
    of the similarity; texts: least cosine of the bank's sentences.
    """
    error = verdict.similarity_error
    return (
        verdict.step,
        _text(verdict.codes_agree, "{:.3%}"),
        _text(None if verdict.codes_agree is None else verdict.flipped_margin, "{:.1e}"),
        _text(None if error is None or verdict.codes_agree is None else 2 * error, "{:.1e}"),
        _text(verdict.cosine, "{:.6f}"),
        _text(verdict.text_cosine, "{:.6f}"),
        _text(verdict.logit_difference, "{:.1e}"),
        _text(verdict.probability_difference, "{:.1e}"),
        _text(verdict.spearman, "{:.3f}"),
        verdict.verdict,
    )


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def headline(result: FinishedCheck) -> str:
    """What was compared with what, in one line."""
    release = result.release
    random = ", RANDOM WEIGHTS" if release.checkpoint.random_weights else ""
    return (
        f"release {release.name} ({release.precision}{random}) against {result.baseline}, "
        f"worst of {len(result.scans)} scans"
    )


def parity_table(result: FinishedCheck) -> Table:
    """For the terminal."""
    table = Table(
        title=headline(result), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    # Where there is too little room the long names of steps fold first; a verdict never does.
    for column in COLUMNS[:-1]:
        table.add_column(column, justify="left" if column == "step" else "right", overflow="fold")
    table.add_column(COLUMNS[-1], no_wrap=True, min_width=len("NOT RUN"))
    style = {"PASS": "green", "FAIL": "bold red", "NOT RUN": "yellow"}
    for verdict in result.verdicts:
        *cells, outcome = row(verdict)
        table.add_row(*cells, f"[{style[outcome]}]{outcome}[/]")
    return table


def reasons(result: FinishedCheck) -> list[str]:
    """Why a step did not pass, a line each."""
    return [f"{v.verdict} {v.step}: {v.reason}" for v in result.verdicts if v.reason]


def auroc_lines(result: FinishedCheck, areas: Sequence[Auroc]) -> list[str]:
    """Whose scores they are, then a line for each finding."""
    if not areas:
        return []
    return [
        f"AUROC of {result.scored} against {result.baseline}:",
        *(
            f"AUROC {area.finding}: {area.baseline:.4f} → {area.served:.4f} "
            f"(difference {area.difference_low:+.4f} … {area.difference_high:+.4f}, "
            f"{area.positives} positives)"
            for area in areas
        ),
    ]


def as_json(result: FinishedCheck, areas: Sequence[Auroc]) -> dict[str, Any]:
    """Everything, with numbers as numbers; NaN becomes null."""
    return {
        "passed": result.passed,
        "baseline": result.baseline,
        "release": dict(result.release.content),
        "scans": list(result.scans),
        "rungs": [verdict.as_json() for verdict in result.verdicts],
        "auroc": [
            {
                "rung": result.scored,
                **{
                    k: None if isinstance(v, float) and math.isnan(v) else v
                    for k, v in asdict(a).items()
                },
            }
            for a in areas
        ],
        "machine": describe_machine(),
    }


def as_page(result: FinishedCheck, areas: Sequence[Auroc]) -> str:
    """One HTML page without anything to load: what the terminal shows, scans and machine."""
    console = Console(file=io.StringIO(), width=160, record=True)
    console.print(f"Parity check: {'PASSED' if result.passed else 'FAILED'}", style="bold")
    console.print(parity_table(result))
    machine = (f"{name}: {value}" for name, value in describe_machine().items())
    for lines in (reasons(result), auroc_lines(result, areas), ("Scans:", *result.scans), machine):
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print()
    return console.export_html()
