"""How good predictions are: every figure of every finding, and the means, each with its interval.

Values are scikit-learn's; their intervals come from `resampling`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctclip_analysis.evaluate.calibration import Calibration, calibrate
from ctclip_analysis.evaluate.cases import Cases
from ctclip_analysis.evaluate.operating_points import OperatingPoints
from ctclip_analysis.evaluate.resampling import Draws, Figure, areas

Floats = NDArray[np.float64]
RANKING = {"auroc": "AUROC", "average_precision": "AP"}
AT_THRESHOLD = {
    "f1": "F1",
    "precision": "Precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}
ERROR = {"brier": "Brier"}
TITLES = {**RANKING, **AT_THRESHOLD, **ERROR}
FEW = 10
"""Cases with or without a finding, or patients: with fewer, an interval says little. A rule of
thumb: draws repeat the few that there are, and know of no others."""


class Counted(Protocol):
    """A finding and its cases: with a known label, and those of them that have it."""

    @property
    def finding(self) -> str: ...
    @property
    def cases(self) -> int: ...
    @property
    def positives(self) -> int: ...


def few_of(findings: Iterable[Counted]) -> list[str]:
    """Names of the findings that have both classes, and too few cases of one."""
    return [
        each.finding
        for each in findings
        if 0 < min(each.positives, each.cases - each.positives) < FEW
    ]


def few_lines(findings: Iterable[Counted]) -> list[str]:
    """A sentence naming the findings of `few_of`; none if there are none."""
    few = few_of(findings)
    return [f"Fewer than {FEW} cases with or without it, so figures and intervals say little: "
            f"{', '.join(few)}."] if few else []  # fmt: skip


@dataclass(frozen=True, eq=False)
class FindingScores:
    """One finding. cases: with a known label; unknown: without. threshold: where "positive" begins,
    None where none was given. figures: by the names of `TITLES`, those at a threshold only where
    there is one. undefined: why some have no value, "" where all have.
    """

    finding: str
    cases: int
    positives: int
    unknown: int
    threshold: float | None
    figures: Mapping[str, Figure]
    calibration: Calibration
    undefined: str


@dataclass(frozen=True, eq=False)
class Scored:
    """macro: the mean over findings, each counting the same. left_out: figure -> findings without
    a value, which the mean leaves out."""

    findings: tuple[FindingScores, ...]
    macro: Mapping[str, Figure]
    left_out: Mapping[str, tuple[str, ...]]


def score(cases: Cases, draws: Draws, points: OperatingPoints | None = None) -> Scored:
    """Compute every figure of every finding. points: without them, none at a threshold."""
    thresholds = {} if points is None else points.thresholds
    drawn = _drawn(cases, draws, thresholds)
    values = [
        _values(cases.labels[:, at], cases.probabilities[:, at], thresholds.get(finding))
        for at, finding in enumerate(cases.findings)
    ]
    findings = []
    for at, finding in enumerate(cases.findings):
        labels, scores = _known(cases.labels[:, at], cases.probabilities[:, at])
        figures = {name: Figure.of(value, drawn[name][:, at]) for name, value in values[at].items()}
        findings.append(
            FindingScores(
                finding, len(labels), int(labels.sum()), len(cases.names) - len(labels),
                thresholds.get(finding), figures, calibrate(labels, scores),
                _why(labels, figures),
            )
        )  # fmt: skip
    macro, left_out = {}, {}
    for name in TITLES:
        having = [at for at, each in enumerate(values) if name in each]
        defined = [at for at in having if np.isfinite(values[at][name])]
        if not having:
            continue
        left_out[name] = tuple(cases.findings[at] for at in having if at not in defined)
        mean = np.mean([values[at][name] for at in defined]) if defined else np.nan
        # A round counts where all of them have a value: otherwise it would be another mean.
        macro[name] = Figure.of(float(mean), drawn[name][:, defined].mean(axis=1)
                                if defined else np.full(draws.rounds, np.nan))  # fmt: skip
    return Scored(tuple(findings), macro, left_out)


def auroc_and_ap(labels: Floats, scores: Floats) -> dict[str, float]:
    """Of one finding, from scikit-learn; NaN where only one class is present."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if labels.all() or not labels.any():
        return dict.fromkeys(RANKING, np.nan)
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "average_precision": float(average_precision_score(labels, scores)),
    }


def _values(labels: Floats, scores: Floats, threshold: float | None) -> dict[str, float]:
    from sklearn.metrics import brier_score_loss, f1_score, precision_score, recall_score

    labels, scores = _known(labels, scores)
    values = auroc_and_ap(labels, scores)
    if threshold is not None:
        positive = scores >= threshold
        has = bool(labels.any())
        values |= {
            "f1": float(f1_score(labels, positive)) if has else np.nan,
            "precision": float(precision_score(labels, positive)) if positive.any() else np.nan,
            "sensitivity": float(recall_score(labels, positive)) if has else np.nan,
            "specificity": np.nan if labels.all()
            else float(recall_score(labels, positive, pos_label=0)),
        }  # fmt: skip
    known = bool(len(labels))
    values["brier"] = float(brier_score_loss(labels, scores, pos_label=1)) if known else np.nan
    return values


def _known(labels: Floats, scores: Floats) -> tuple[Floats, Floats]:
    known = np.isfinite(labels)
    return labels[known], scores[known]


def _drawn(cases: Cases, draws: Draws, thresholds: Mapping[str, float]) -> dict[str, Floats]:
    """Each figure in each round: (rounds, F), NaN where it is not defined."""
    known = np.isfinite(cases.labels)
    present = (cases.labels == 1).astype(float)
    limits = np.array([thresholds.get(name, np.inf) for name in cases.findings])
    positive = known & (cases.probabilities >= limits)
    error = np.where(known, (cases.probabilities - np.nan_to_num(cases.labels)) ** 2, 0.0)
    counted, has = draws.sums(known.astype(float)), draws.sums(present)
    hits, called = draws.sums(present * positive), draws.sums(positive.astype(float))
    ranking = [
        areas(cases.labels[:, at], cases.probabilities[:, at], draws)
        for at in range(len(cases.findings))
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "auroc": np.stack([auroc for auroc, _ in ranking], axis=1),
            "average_precision": np.stack([precision for _, precision in ranking], axis=1),
            "f1": np.where(has > 0, 2 * hits / (has + called), np.nan),
            "precision": hits / called,
            "sensitivity": hits / has,
            "specificity": 1 - (called - hits) / (counted - has),
            "brier": draws.sums(error) / counted,
        }


def _why(labels: Floats, figures: Mapping[str, Figure]) -> str:
    if all(np.isfinite(figure.value) for figure in figures.values()):
        return ""
    if not len(labels):
        return "no label is known"
    if not labels.any():
        return "no case has it"
    if labels.all():
        return "every case has it"
    return "no probability reaches the threshold"
