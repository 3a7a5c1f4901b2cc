"""A finished evaluation: what was judged, the figures, and all that must be said with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ctclip_analysis.evaluate.cases import Cases
from ctclip_analysis.evaluate.metrics import FindingScores, Scored
from ctclip_analysis.evaluate.operating_points import METHODS, OperatingPoints
from ctclip_analysis.evaluate.resampling import LEVEL, ROUNDS, SEED, Figure
from ctclip_analysis.evaluate.task_parity import BARS, TaskParity
from ctclip_analysis.predictions import Origin, Predictions

SAME_DATA = (
    "THRESHOLDS FITTED ON THE SAME DATA: F1, precision, sensitivity and specificity are too good, "
    "since the thresholds were chosen with the labels of {} of these scans at hand."
)
NO_THRESHOLDS = (
    "No thresholds, so no F1, precision, sensitivity or specificity: fit them on other scans "
    "(--fit-thresholds FILE) and apply them here (--thresholds FILE)."
)
_MUCH = 0.03
"""Share of the rounds without a value from which on it is told."""
_TITLES = {
    "failed_scans": "Scans that failed when they were predicted",
    "scans_without_labels": "Predicted scans without labels",
    "labels_without_scans": "Labelled scans without a prediction",
    "findings_without_labels": "Predicted findings without labels",
    "label_columns_without_findings": "Label columns that are no predicted finding",
    "unknown_labels": "Findings with unknown labels (empty, nan, -1), which do not count",
    "joined": "Labels compared with the highest of several probabilities",
    "other_columns": "Findings whose column has another name",
}


@dataclass(frozen=True)
class Against:
    """The other side of a comparison. bar: what the ratio must reach."""

    predictions: Predictions
    parity: TaskParity
    bar: float

    @property
    def passed(self) -> bool:
        return self.parity.reaches(self.bar)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """points: the thresholds that the figures are of; fitted: the file that new ones went to, and
    how many. patients: how many were drawn from. finished: when, in ISO 8601."""

    predictions: Predictions
    labels: Path
    cases: Cases
    scored: Scored
    patients: int
    points: OperatingPoints | None
    fitted: tuple[Path, OperatingPoints] | None
    against: Against | None
    finished: str

    @property
    def random_weights(self) -> bool:
        """Whether any of it is a demo checkpoint's."""
        sides = [self.predictions, *([self.against.predictions] if self.against else [])]
        return any(side.origin.random_weights for side in sides)


@dataclass(frozen=True)
class Listed:
    """Something that is on one side only. names: all of them."""

    title: str
    names: tuple[str, ...]

    def line(self, first: int = 3) -> str:
        """In one line, with the first names."""
        more = f", and {len(self.names) - first:,} more" if len(self.names) > first else ""
        return f"{self.title}: {len(self.names):,} ({', '.join(self.names[:first])}{more})"


def headline(evaluation: Evaluation) -> str:
    """What was judged, in one line."""
    cases = evaluation.cases
    what = f"{cases.files:,} files"
    if cases.group == "scan":
        what = f"{len(cases.names):,} scans ({what}, the mean of their probabilities)"
    if cases.patients.alone < len(cases.names):
        what += f" of {evaluation.patients:,} patients"
    findings = f"{len(cases.findings)} findings"
    return f"{what}, {findings}; {described(evaluation.predictions.origin)}"


def described(origin: Origin) -> str:
    """Whose answers they are."""
    if origin.release is None:
        return "the predictions do not say of which release"
    random = ", RANDOM WEIGHTS" if origin.random_weights else ""
    return f"release {origin.release}, checkpoint {origin.checkpoint}, {origin.precision}{random}"


def method_lines(evaluation: Evaluation) -> list[str]:
    """How the figures came about, a sentence each."""
    cases, points = evaluation.cases, evaluation.points
    drawn = f"Intervals: {LEVEL:.0%}, percentile bootstrap, {ROUNDS:,} draws (seed {SEED})"
    if cases.patients.alone == len(cases.names):
        lines = [f"{drawn}. Nothing tells patients, so each case is drawn by itself."]
    else:
        lines = [
            f"{drawn} of {evaluation.patients:,} patients with all their cases, told by "
            f"{cases.patients.told_by}."
        ]
        if cases.patients.alone:
            lines.append(f"{cases.patients.alone:,} names tell no patient: drawn by themselves.")
    if cases.ungrouped:
        lines.append(f"{cases.ungrouped:,} names do not tell their scan: each is a case by itself.")
    if points is not None:
        said = METHODS.get(points.method, "unknown")
        lines.append(f"Thresholds: {points.origin}; method {points.method}: {said}.")
        if points.release not in (None, evaluation.predictions.origin.release):
            lines.append("They were fitted on answers of another release than these.")
        if points.same_data is None:
            lines.append(
                "Their file does not say what they were fitted on: not these scans, one hopes."
            )
        lacking = [name for name in cases.findings if name not in points.thresholds]
        if lacking:
            lines.append(f"Without a threshold: {', '.join(lacking)}.")
    return lines


def warnings(evaluation: Evaluation) -> list[str]:
    """What nobody may overlook, a sentence each; RANDOM WEIGHTS is said elsewhere."""
    said = []
    if evaluation.points is not None and evaluation.points.shared:
        said.append(SAME_DATA.format(f"{evaluation.points.shared:,}"))
    if evaluation.predictions.replaced:
        said.append(
            f"{evaluation.predictions.replaced:,} rows of the journal were replaced by later rows "
            "of the same scans."
        )
    return said


def undefined_lines(scored: Scored) -> list[str]:
    """Which figures have no value and why; which intervals rest on fewer draws."""
    lines = [
        f"n/a, {each.finding}: {each.undefined}." for each in scored.findings if each.undefined
    ]
    out = sorted({name for names in scored.left_out.values() for name in names})
    if out:
        lines.append(f"The mean leaves out where n/a: {', '.join(out)}.")
    for name, figures in (
        *((each.finding, each.figures) for each in scored.findings), ("Mean", scored.macro)
    ):  # fmt: skip
        most = max((f.left_out for f in figures.values() if math.isfinite(f.value)), default=0)
        if most > _MUCH * ROUNDS:
            lines.append(
                f"{name}: {most:,} of {ROUNDS:,} draws have no value of some figure, most often as "
                "they are of one class only; its interval is that of the others, if they are half."
            )
    return lines


def listed(cases: Cases) -> list[Listed]:
    """What is on one side only, kind by kind; nothing of a kind that there is not."""
    found = []
    for name, title in _TITLES.items():
        value: Any = getattr(cases.mismatches, name)
        names = value
        if isinstance(value, Mapping):
            names = tuple(
                f"{key}: {each if isinstance(each, int) else ', '.join(_shortened(each))}"
                for key, each in value.items()
            )
        if names:
            found.append(Listed(title, tuple(names)))
    return found


def _shortened(columns: Sequence[str], most: int = 4) -> list[str]:
    more = [f"{len(columns) - most} more"] if len(columns) > most else []
    return [*columns[:most], *more]


def verdict_lines(against: Against) -> list[str]:
    """Both bars, then the exit code's."""
    parity = against.parity
    ratio = parity.ratio
    lines = [
        f"Macro AUROC {parity.judged:.4f} against {parity.reference:.4f}: "
        f"{ratio.value:.3%} of the reference {interval(ratio, '.3%')}.",
        *(
            f"{'PASS' if parity.reaches(bar) else 'FAIL'} at {100 * bar:.6g}% of the reference"
            for bar in sorted({*BARS, against.bar}, reverse=True)
        ),
    ]
    if parity.left_out:
        lines.append(f"Left out on both sides, n/a: {', '.join(parity.left_out)}.")
    return lines


def interval(figure: Figure, form: str = ".3f") -> str:
    """(low–high), nothing where there is none."""
    if not math.isfinite(figure.low):
        return ""
    between = " … " if form.startswith("+") else "–"
    return f"({figure.low:{form}}{between}{figure.high:{form}})"


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything, with null for what is not defined."""
    cases, points, fitted = evaluation.cases, evaluation.points, evaluation.fitted
    content = {
        "kind": "ctclip-evaluation",
        "version": 1,
        "finished": evaluation.finished,
        "predictions": _side(evaluation.predictions),
        "labels": {"path": str(evaluation.labels), "sha256": cases.labels_sha256},
        "group": cases.group,
        "cases": len(cases.names),
        "files": cases.files,
        "patients": {
            "count": evaluation.patients, "told_by": cases.patients.told_by,
            "cases_alone": cases.patients.alone,
        },
        "random_weights": evaluation.random_weights,
        "bootstrap": {"rounds": ROUNDS, "seed": SEED, "level": LEVEL, "drawn": "patients"},
        "thresholds": None if points is None else {
            "from": points.origin, "method": points.method, "same_data": points.same_data,
            "scans_fitted_on": points.shared,
        },
        "fitted_thresholds": None if fitted is None else {
            "path": str(fitted[0]), "method": fitted[1].method,
            "thresholds": dict(fitted[1].thresholds),
        },
        "findings": [_finding(each) for each in evaluation.scored.findings],
        "macro": {
            name: {**asdict(figure), "findings_left_out": evaluation.scored.left_out[name]}
            for name, figure in evaluation.scored.macro.items()
        },
        "mismatches": {name: getattr(cases.mismatches, name) for name in _TITLES},
        "against": None if evaluation.against is None else _against(evaluation.against),
        "notes": [*warnings(evaluation), *method_lines(evaluation),
                  *undefined_lines(evaluation.scored)],
        "versions": {name: version(name) for name in ("ctclip-analysis", "numpy", "scikit-learn")},
    }  # fmt: skip
    cleaned: dict[str, Any] = without_nan(content)
    return cleaned


def _side(predictions: Predictions) -> dict[str, Any]:
    return {
        "path": str(predictions.path), "sha256": predictions.sha256,
        "scans": len(predictions.scans),
        "failed": [{"path": path, "kind": kind} for path, kind in predictions.failed],
        "replaced_rows": predictions.replaced, **asdict(predictions.origin),
    }  # fmt: skip


def _finding(scores: FindingScores) -> dict[str, Any]:
    return {
        "finding": scores.finding, "cases": scores.cases, "positives": scores.positives,
        "unknown": scores.unknown, "threshold": scores.threshold, "undefined": scores.undefined,
        **{name: asdict(figure) for name, figure in scores.figures.items()},
        "calibration": asdict(scores.calibration),
    }  # fmt: skip


def _against(against: Against) -> dict[str, Any]:
    return {
        "predictions": _side(against.predictions), "bar": against.bar, "passed": against.passed,
        **parity_as_json(against.parity),
    }  # fmt: skip


def parity_as_json(parity: TaskParity) -> dict[str, Any]:
    """Task parity, with null for what is not defined."""
    content: dict[str, Any] = without_nan(
        asdict(parity) | {"bars": {f"{bar:g}": parity.reaches(bar) for bar in BARS}}
    )
    return content


def without_nan(value: Any) -> Any:
    """The same with None for NaN, as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return value
