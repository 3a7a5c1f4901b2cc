"""A finished evaluation: what was judged, the figures, and all that must be said with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctclip_analysis.evaluate import BARS
from ctclip_analysis.evaluate.cases import Cases
from ctclip_analysis.evaluate.metrics import FEW, Scored, few_lines
from ctclip_analysis.evaluate.operating_points import METHODS, OperatingPoints
from ctclip_analysis.evaluate.resampling import LEVEL, ROUNDS, SEED, Figure
from ctclip_analysis.evaluate.task_parity import TaskParity
from ctclip_analysis.predictions import Origin, Predictions
from ctclip_analysis.wording import counted, first_of

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
MISMATCH_TITLES = {
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
    """points: the thresholds that the figures are of; fitted: the file that new ones go to, and
    these. patients: how many were drawn from. finished: when, in ISO 8601."""

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
        return f"{self.title}: {len(self.names):,} ({first_of(self.names, first)})"


def headline(evaluation: Evaluation) -> str:
    """What was judged, in one line."""
    cases = evaluation.cases
    what = counted(cases.files, "file")
    if cases.group == "scan":
        what = f"{counted(len(cases.names), 'scan')} ({what}, the mean of their probabilities)"
    if cases.patients.alone < len(cases.names):
        what += f" of {counted(evaluation.patients, 'patient')}"
    findings = counted(len(cases.findings), "finding")
    return f"{what}, {findings}; {described(evaluation.predictions.origin)}"


def described(origin: Origin) -> str:
    """Whose answers they are."""
    if origin.release is None:
        return "answers of an unknown release"
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
            f"{drawn} of {counted(evaluation.patients, 'patient')} with all their cases, told by "
            f"{cases.patients.told_by}."
        ]
        if cases.patients.alone:
            lines.append(
                f"Drawn by themselves, since their names tell no patient: {cases.patients.alone:,}."
            )
    if evaluation.patients < FEW:
        lines.append(f"They are of fewer than {FEW} patients, and say little.")
    if cases.ungrouped:
        lines.append(f"Cases by themselves, since their names tell no scan: {cases.ungrouped:,}.")
    if points is not None:
        said = METHODS.get(points.method, "unknown")
        lines.append(f"Thresholds: {points.origin}; method {points.method}: {said}.")
        if points.release not in (None, evaluation.predictions.origin.release):
            lines.append("They were fitted on answers of another release than these.")
        if points.same_data is None:
            lines.append(
                "Their file does not say what they were fitted on; if it was these scans, the "
                "figures are too good."
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
    against = evaluation.against
    if against is not None and against.predictions.sha256 == evaluation.predictions.sha256:
        said.append("--against has the content of --predictions: they are the same by nature.")
    if evaluation.predictions.replaced:
        said.append(
            "Rows of the journal that later rows of the same scans replaced: "
            f"{evaluation.predictions.replaced:,}."
        )
    return said


def undefined_lines(scored: Scored) -> list[str]:
    """Which figures have no value and why; which intervals rest on fewer draws."""
    lines = [
        f"n/a, {each.finding}: {each.undefined}." for each in scored.findings if each.undefined
    ]
    lines += few_lines(scored.findings)
    out = sorted({name for names in scored.left_out.values() for name in names})
    if out:
        lines.append(f"The mean leaves out where n/a: {', '.join(out)}.")
    for name, figures in (
        *((each.finding, each.figures) for each in scored.findings), ("Mean", scored.macro)
    ):  # fmt: skip
        most = max((f.left_out for f in figures.values() if math.isfinite(f.value)), default=0)
        if most > _MUCH * ROUNDS:
            lines.append(
                f"{name}: {most:,} of {ROUNDS:,} draws have no value of some figure, mostly as "
                "they are of one class only; its interval is of the others, if half are left."
            )
    return lines


def listed(cases: Cases) -> list[Listed]:
    """What is on one side only, kind by kind; nothing of a kind that there is not."""
    found = []
    for name, title in MISMATCH_TITLES.items():
        value: Any = getattr(cases.mismatches, name)
        names = value
        if isinstance(value, Mapping):
            names = tuple(
                f"{key}: {each if isinstance(each, int) else first_of(each)}"
                for key, each in value.items()
            )
        if names:
            found.append(Listed(title, tuple(each or "without a name" for each in names)))
    return found


def verdict_lines(against: Against) -> list[str]:
    """Both bars, then the exit code's."""
    parity = against.parity
    ratio = parity.ratio
    lines = [
        f"Macro AUROC {parity.judged:.4f} against {parity.reference:.4f}: "
        f"{_share(ratio.value)} of the reference {interval(ratio, '.3%')}".rstrip()
        + ".",
        *(
            f"{'PASS' if parity.reaches(bar) else 'FAIL'} at {100 * bar:.6g}% of the reference"
            for bar in sorted({*BARS, against.bar}, reverse=True)
        ),
    ]
    if doubt := parity.doubt(against.bar):
        lines.append(doubt)
    if parity.left_out:
        lines.append(f"Left out on both sides, n/a: {', '.join(parity.left_out)}.")
    return lines


def _share(value: float) -> str:
    return f"{value:.3%}" if math.isfinite(value) else "n/a"


def interval(figure: Figure, form: str = ".3f") -> str:
    """(low–high), nothing where there is none."""
    if not math.isfinite(figure.low):
        return ""
    between = " … " if form.startswith("+") else "–"
    return f"({figure.low:{form}}{between}{figure.high:{form}})"
