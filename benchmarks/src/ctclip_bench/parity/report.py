"""A parity check as a table, as JSON and as a page."""

from __future__ import annotations

import io
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ctclip_analysis.evaluate import BARS
from ctclip_analysis.evaluate.as_json import without_nan
from ctclip_analysis.evaluate.metrics import few_lines
from ctclip_analysis.evaluate.result import interval
from ctclip_analysis.evaluate.task_parity import TaskParity
from ctclip_bench.machine import describe_machine
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


def auroc_lines(result: FinishedCheck, task: TaskParity | None) -> list[str]:
    """Whose scores they are, then a line for each finding, and for each of MLPerf's bars."""
    if task is None:
        return []
    lines = [
        f"AUROC of {result.scored} against {result.baseline}:",
        *(
            f"AUROC {area.finding}: {area.reference:.4f} → {area.judged:.4f}, difference "
            f"{area.difference.value:+.4f} {interval(area.difference, '+.4f')}, "
            f"{area.positives} of {area.cases} positive"
            for area in task.findings
            if area.finding not in task.left_out
        ),
    ]
    if task.left_out:
        lines.append(f"AUROC: n/a, as scans are of one class only: {', '.join(task.left_out)}.")
    if not task.judgeable:
        return [*lines, "AUROC: no finding has scans of both classes, so there is no verdict."]
    reached = (f"{'PASS' if task.reaches(bar) else 'FAIL'} at {100 * bar:g}%" for bar in BARS)
    return [
        *lines,
        f"AUROC, mean of {len(task.findings) - len(task.left_out)} findings: {task.reference:.4f} "
        f"→ {task.judged:.4f}, {task.ratio.value:.3%} of the reference: {', '.join(reached)}",
        *few_lines(task.findings),
        *filter(None, [task.doubt(BARS[0])]),
    ]


def as_json(result: FinishedCheck, task: TaskParity | None) -> dict[str, Any]:
    """Everything, with numbers as numbers; NaN becomes null."""
    areas = () if task is None else task.findings
    return {
        "passed": result.passed,
        "baseline": result.baseline,
        "release": dict(result.release.content),
        "scans": list(result.scans),
        "rungs": [verdict.as_json() for verdict in result.verdicts],
        "auroc": [
            without_nan({
                "rung": result.scored, "finding": area.finding, "positives": area.positives,
                "baseline": area.reference, "served": area.judged,
                "difference_low": area.difference.low, "difference_high": area.difference.high,
            })
            for area in areas
        ],
        "task": None if task is None else without_nan({
            "rung": result.scored, "baseline": task.reference, "served": task.judged,
            "ratio": task.ratio.value, "ratio_low": task.ratio.low, "ratio_high": task.ratio.high,
            "left_out": task.left_out, "bars": {f"{bar:g}": task.reaches(bar) for bar in BARS},
        }),
        "machine": describe_machine(),
    }  # fmt: skip


def as_page(result: FinishedCheck, task: TaskParity | None) -> str:
    """One HTML page without anything to load: what the terminal shows, scans and machine."""
    console = Console(file=io.StringIO(), width=160, record=True)
    console.print(f"Parity check: {'PASSED' if result.passed else 'FAILED'}", style="bold")
    console.print(parity_table(result))
    machine = (f"{name}: {value}" for name, value in describe_machine().items())
    for lines in (reasons(result), auroc_lines(result, task), ("Scans:", *result.scans), machine):
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print()
    return console.export_html()
