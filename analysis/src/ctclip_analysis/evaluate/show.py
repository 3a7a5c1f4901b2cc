"""An evaluation for a person's eyes, in a terminal of any width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ctclip_analysis.evaluate.metrics import AT_THRESHOLD, ERROR, RANKING
from ctclip_analysis.evaluate.resampling import Figure
from ctclip_analysis.evaluate.result import (
    NO_THRESHOLDS,
    Against,
    Evaluation,
    described,
    headline,
    interval,
    listed,
    method_lines,
    undefined_lines,
    verdict_lines,
    warnings,
)
from ctclip_analysis.wording import counted
from ctclip_client.cli.tables import RANDOM_WEIGHTS, least_width, print_table
from ctclip_client.system.terminal import printable

_NAME = 12
_Row = tuple[str, Sequence[str], Mapping[str, Figure]]


def show(console: Console, evaluation: Evaluation, report: Path | None = None) -> None:
    """Print all of it. report: a page that has been written, too."""
    _say(console, headline(evaluation), "bold")
    if evaluation.random_weights:
        random = Text(RANDOM_WEIGHTS, "bold red", justify="center")
        console.print(Panel(random, border_style="red"))
    for line in warnings(evaluation):
        _say(console, line, "bold red")
    scored = evaluation.scored
    counts = [
        (each.finding, (f"{each.cases:,}", f"{each.positives:,}"), each.figures)
        for each in scored.findings
    ]
    calibration = {
        each.finding: Figure(each.calibration.ece, math.nan, math.nan) for each in scored.findings
    }
    ranking = [
        (name, cells, {**figures, "ece": calibration[name]}) for name, cells, figures in counts
    ]
    mean: _Row = ("Mean of findings", ("", ""), scored.macro)
    _table(console, ("Cases", "Positive"), {**RANKING, **ERROR, "ece": "ECE"}, [*ranking, mean])
    if evaluation.points is not None:
        limits: list[_Row] = [
            (each.finding, ("" if each.threshold is None else f"{each.threshold:.4f}",),
             each.figures)
            for each in scored.findings
        ]  # fmt: skip
        _table(console, ("Threshold",), AT_THRESHOLD, [*limits, (mean[0], ("",), mean[2])])
    else:
        _say(console, NO_THRESHOLDS, "yellow")
    for line in (*undefined_lines(scored), *method_lines(evaluation)):
        _say(console, line)
    for each in listed(evaluation.cases):
        _say(console, each.line(), "yellow")
    if evaluation.against is not None:
        _show_against(console, evaluation.against)
    if evaluation.fitted is not None:
        path, points = evaluation.fitted
        _say(console, f"{counted(len(points.thresholds), 'threshold')} ({points.method}): {path}")
    if report is not None:
        _say(console, f"page: {report}")


def _show_against(console: Console, against: Against) -> None:
    console.print()
    _say(console, f"Task parity with {described(against.predictions.origin)}", "bold")
    rows: list[_Row] = [
        (each.finding,
         (f"{each.positives:,}", _number(each.reference, 4), _number(each.judged, 4)),
         {"difference": each.difference})
        for each in against.parity.findings
    ]  # fmt: skip
    parity = against.parity
    macro = (_number(parity.reference, 4), _number(parity.judged, 4))
    rows.append(("Mean of findings", ("", *macro), {"difference": parity.difference}))
    _table(console, ("Positive", "Reference", "Judged"), {"difference": "Difference of AUROC"},
           rows, form="+.4f")  # fmt: skip
    for line in verdict_lines(against):
        style = {"PASS": "green", "FAIL": "bold red"}.get(line[:4], "")
        _say(console, line, style)


def _table(
    console: Console, counts: Sequence[str], titles: Mapping[str, str], rows: Sequence[_Row],
    form: str = ".3f",
) -> None:  # fmt: skip
    """Figures with their intervals; where there is no room for columns, a figure a line."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Finding", overflow="fold", min_width=_NAME)
    for title in counts:
        table.add_column(title, justify="right", no_wrap=True)
    for title in titles.values():
        table.add_column(title, justify="right")
    for name, cells, figures in rows:
        table.add_row(
            Text(printable(name)), *cells,
            *(_cell(figures.get(key), form) for key in titles),
        )  # fmt: skip
    if least_width(console, table) <= console.width:
        print_table(console, table)
        return
    for name, cells, figures in rows:
        _say(console, name, "bold")
        known = [*zip(counts, cells, strict=True),
                 *((titles[key], _cell(figures.get(key), form)) for key in titles)]  # fmt: skip
        for title, text in known:
            if text:
                console.print(Text(f"  {title} {text}"), soft_wrap=True)


def _cell(figure: Figure | None, form: str) -> str:
    if figure is None:
        return ""
    if not math.isfinite(figure.value):
        return "n/a"
    return f"{figure.value:{form}} {interval(figure, form)}".strip()


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "n/a"


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(printable(line), style))
