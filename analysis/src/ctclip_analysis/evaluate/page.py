"""An evaluation as one page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ctclip_analysis.evaluate import plots
from ctclip_analysis.evaluate.metrics import AT_THRESHOLD, ERROR, RANKING, FindingScores
from ctclip_analysis.evaluate.resampling import Figure
from ctclip_analysis.evaluate.result import (
    NO_THRESHOLDS,
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
from ctclip_client.report.pages import render
from ctclip_client.system.terminal import printable

MOST_CURVES = 40
"""Findings whose curves are drawn: more would make the page too large to send."""


@dataclass(frozen=True)
class Cell:
    """A number with its interval below it."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Curves:
    """Addresses of the pictures of one finding, and what they show in a few words."""

    finding: str
    said: str
    pictures: tuple[tuple[str, str], ...]


def as_page(evaluation: Evaluation) -> str:
    """The page, in HTML, in characters that have a shape: names may hold any, such as U+202E, which
    turns around what follows.

    Raises: InvalidInput where Jinja2 is not installed.
    """
    scored, against = evaluation.scored, evaluation.against
    at_threshold = AT_THRESHOLD if evaluation.points is not None else {}
    titles = {**RANKING, **ERROR, **at_threshold}
    drawn = [each for each in scored.findings if math.isfinite(each.figures["auroc"].value)]
    page = render(
        "ctclip_analysis",
        "evaluation.html",
        random_weights=evaluation.random_weights,
        headline=headline(evaluation),
        finished=evaluation.finished,
        files=_files(evaluation),
        warnings=warnings(evaluation),
        no_thresholds="" if evaluation.points is not None else NO_THRESHOLDS,
        titles=[*RANKING.values(), *ERROR.values(), "ECE",
                *(["Threshold", *at_threshold.values()] if at_threshold else [])],
        with_threshold=bool(at_threshold),
        rows=[
            (each, _cells(each.figures, titles, each.calibration.ece, each.threshold))
            for each in scored.findings
        ],
        mean=_cells(scored.macro, titles, None, None),
        intervals=plots.intervals(scored) if drawn else "",
        curves=[_curves(evaluation, each) for each in drawn[:MOST_CURVES]],
        not_drawn=len(drawn[MOST_CURVES:]),
        undefined=undefined_lines(scored),
        method=method_lines(evaluation),
        listed=listed(evaluation.cases),
        against=against,
        reference="" if against is None else described(against.predictions.origin),
        verdicts=[] if against is None else verdict_lines(against),
        parity_rows=[] if against is None else [
            (each, _number(each.reference, 4), _number(each.judged, 4),
             _cell(each.difference, "+.4f"))
            for each in against.parity.findings
        ],
        parity_mean=() if against is None else (
            _number(against.parity.reference, 4), _number(against.parity.judged, 4),
            _cell(against.parity.difference, "+.4f"),
        ),
        differences="" if against is None else plots.differences(against.parity),
    )  # fmt: skip
    return "\n".join(map(printable, page.split("\n")))


def _files(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    files = [
        ("Predictions", evaluation.predictions.path, evaluation.predictions.sha256),
        ("Labels", evaluation.labels, evaluation.cases.labels_sha256),
    ]
    if evaluation.against is not None:
        reference = evaluation.against.predictions
        files.append(("Reference", reference.path, reference.sha256))
    return [(what, str(path.name), sha256) for what, path, sha256 in files]


def _curves(evaluation: Evaluation, scores: FindingScores) -> Curves:
    at = evaluation.cases.findings.index(scores.finding)
    known = np.isfinite(evaluation.cases.labels[:, at])
    labels = evaluation.cases.labels[known, at]
    probabilities = evaluation.cases.probabilities[known, at]
    auroc, precision = (scores.figures[name] for name in RANKING)
    said = (
        f"AUROC {auroc.value:.3f} {interval(auroc)}, AP {precision.value:.3f} "
        f"{interval(precision)}, {scores.positives:,} of {scores.cases:,} positive"
    )
    return Curves(
        scores.finding, said,
        (
            ("ROC curve", plots.roc(scores, labels, probabilities)),
            ("precision-recall curve", plots.precision_recall(scores, labels, probabilities)),
            ("reliability curve", plots.reliability(scores.calibration.bins)),
        ),
    )  # fmt: skip


def _cells(
    figures: Mapping[str, Figure], titles: Iterable[str], ece: float | None, threshold: float | None
) -> list[Cell]:
    """A row of the table, in the order of its titles."""
    cells = {name: _cell(figures.get(name)) for name in titles}
    before = [cells.pop(name) for name in (*RANKING, *ERROR)]
    before.append(Cell("" if ece is None else _number(ece)))
    if not cells:
        return before
    return [*before, Cell("" if threshold is None else f"{threshold:.4f}"), *cells.values()]


def _cell(figure: Figure | None, form: str = ".3f") -> Cell:
    if figure is None:
        return Cell("")
    if not math.isfinite(figure.value):
        return Cell("n/a")
    return Cell(f"{figure.value:{form}}", interval(figure, form).strip("()"))


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "n/a"
