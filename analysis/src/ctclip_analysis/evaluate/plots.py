"""An evaluation as pictures in SVG: intervals of AUROC, and the curves of each finding."""

from __future__ import annotations

import io
import math
import warnings
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ctclip_analysis.evaluate.calibration import Bin
from ctclip_analysis.evaluate.metrics import FindingScores, Scored
from ctclip_analysis.evaluate.task_parity import TaskParity
from ctclip_client.system.terminal import printable

Floats = NDArray[np.float64]
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "ctclip", "font.size": 10, "text.parse_math": False,
    "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
_NOTHING: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_BLUE, _GREY, _RED = "#1f5f99", "#57606a", "#b3261e"
_TICKS = (0, 0.5, 1)
_LONGEST = 44
"""Characters of a name; the table has all of it."""
_styled = mpl.rc_context(_STYLE)


@_styled
def intervals(scored: Scored) -> str:
    """AUROC of each finding with its interval, the highest first, and the mean; chance is 0.5."""
    rows = [(each.finding, each.figures["auroc"]) for each in scored.findings]
    rows = [row for row in rows if math.isfinite(row[1].value)]
    rows.sort(key=lambda row: -row[1].value)
    return _forest([*rows, ("Mean of findings", scored.macro["auroc"])], 0.5, "AUROC")


@_styled
def differences(parity: TaskParity) -> str:
    """Difference of AUROC of each finding with its paired interval, and the mean."""
    rows = [(each.finding, each.difference) for each in parity.findings]
    rows = [row for row in rows if math.isfinite(row[1].value)]
    return _forest(
        [*rows, ("Mean of findings", parity.difference)], 0.0, "AUROC, judged minus reference"
    )


@_styled
def roc(scores: FindingScores, labels: Floats, probabilities: Floats) -> str:
    """Sensitivity against false alarms; the threshold as a dot, where there is one."""
    from sklearn.metrics import roc_curve

    figure, axes = _square("1 − specificity", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=_GREY, lw=0.8, ls="--")
    alarms, hits, _ = roc_curve(labels, probabilities)
    axes.plot(alarms, hits, color=_BLUE, lw=1.5)
    if scores.threshold is not None:
        at = scores.figures
        axes.plot(1 - at["specificity"].value, at["sensitivity"].value, "o", color=_RED, ms=5)
    return _svg(figure)


@_styled
def precision_recall(scores: FindingScores, labels: Floats, probabilities: Floats) -> str:
    """Precision against sensitivity, in steps; the dashed line is the share of positives."""
    from sklearn.metrics import precision_recall_curve

    figure, axes = _square("Sensitivity", "Precision")
    share = scores.positives / scores.cases
    axes.axhline(share, color=_GREY, lw=0.8, ls="--")
    precision, recall, _ = precision_recall_curve(labels, probabilities, drop_intermediate=True)
    axes.step(recall, precision, color=_BLUE, lw=1.5, where="post")
    if scores.threshold is not None and math.isfinite(scores.figures["precision"].value):
        at = scores.figures
        axes.plot(at["sensitivity"].value, at["precision"].value, "o", color=_RED, ms=5)
    return _svg(figure)


@_styled
def reliability(bins: Sequence[Bin]) -> str:
    """How many have the finding, where the probability is about so much; each dot is a bin."""
    figure, axes = _square("Predicted probability", "Share of positives")
    axes.plot([0, 1], [0, 1], color=_GREY, lw=0.8, ls="--")
    axes.plot([each.predicted for each in bins], [each.observed for each in bins], "o-",
              color=_BLUE, lw=1.2, ms=4)  # fmt: skip
    return _svg(figure)


def _forest(rows: Sequence[tuple[str, Any]], line: float, title: str) -> str:
    figure = Figure(figsize=(5.4, 0.9 + 0.27 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(line, color=_GREY, lw=0.8, ls="--")
    for place, (_, each) in enumerate(rows):
        last = place == len(rows) - 1
        color = _RED if last else _BLUE
        if math.isfinite(each.low):
            axes.plot([each.low, each.high], [place, place], color=color, lw=2)
        axes.plot(each.value, place, "D" if last else "o", color=color, ms=5)
    axes.set_yticks(range(len(rows)), [_short(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(title, loc="right")  # beside long names the axis is shorter than its title
    axes.grid(axis="x", color="#d0d7de", lw=0.6)
    axes.set_axisbelow(True)
    return _svg(figure)


def _short(name: str) -> str:
    shown = printable(name)  # a control character would make it no XML
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _square(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(2.5, 2.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, xticks=_TICKS,
             yticks=_TICKS)  # fmt: skip
    return figure, axes


def _svg(figure: Figure) -> str:
    """As a data: address, so that names within one picture are not taken for another's."""
    written = io.StringIO()
    with warnings.catch_warnings():
        # The page's reader has fonts for what this one lacks: text stays text in the picture.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(written, format="svg", metadata=_NOTHING)
    return "data:image/svg+xml;base64," + b64encode(written.getvalue().encode()).decode()
