"""A parity check as a table, as JSON and as a page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
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
            f"(difference {area.difference_low:+.4f} … {area.difference_high:+.4f})"
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
    """One HTML page without anything to load."""
    machine = "".join(f"<li>{_e(k)}: {_e(v)}</li>" for k, v in describe_machine().items())
    scores = "".join(
        f"<tr><td>{_e(a.finding)}</td><td>{a.positives}</td><td>{a.baseline:.4f}</td>"
        f"<td>{a.served:.4f}</td><td>{a.difference_low:+.4f} … {a.difference_high:+.4f}</td></tr>"
        for a in areas
    )
    auroc = (
        "<h2>AUROC</h2><table><tr><th>finding</th><th>positives</th>"
        f"<th>{_e(result.baseline)}</th><th>{_e(result.scored)}</th>"
        f"<th>difference, 95 %</th></tr>{scores}</table>"
        if areas
        else ""
    )
    verdict = "PASSED" if result.passed else "FAILED"
    rows = "".join(
        f"<tr class='{_e(v.verdict.split()[0])}'>"
        + "".join(f"<td>{_e(cell)}</td>" for cell in row(v))
        + "</tr>"
        for v in result.verdicts
    )
    why = "".join(f"<li>{_e(reason)}</li>" for reason in reasons(result))
    heads = "".join(f"<th>{_e(column)}</th>" for column in COLUMNS)
    scans = "".join(f"<li>{_e(name)}</li>" for name in result.scans)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Parity: {verdict}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto }}
table {{ border-collapse: collapse }}
td, th {{ padding: .3rem .7rem; border-bottom: 1px solid #ccc; text-align: right }}
td:first-child, th:first-child {{ text-align: left }}
.PASS td:last-child {{ color: #17692b }} .FAIL td {{ color: #b00020; font-weight: 600 }}
.NOT td {{ color: #806000 }}
</style>
<h1>Parity check: {verdict}</h1><p>{_e(headline(result))}</p>
<table><tr>{heads}</tr>{rows}</table><ul>{why}</ul>{auroc}
<h2>Scans</h2><ul>{scans}</ul><h2>Machine</h2><ul>{machine}</ul></html>
"""


def _e(value: object) -> str:
    return html.escape(str(value))
