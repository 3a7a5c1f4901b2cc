"""Whether another precision or server answers the task as well: two predictions, the same labels.

The bars, `BARS`, are those of MLPerf Inference: a result counts where its quality is at least 99 %
or 99.9 % of the float32 model's (Reddi et al. 2020, arXiv:1911.02549).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctclip_analysis.evaluate.cases import Cases
from ctclip_analysis.evaluate.metrics import auroc_and_ap, few_of
from ctclip_analysis.evaluate.resampling import Draws, Figure, areas
from ctclip_analysis.wording import first_of
from ctclip_client.errors import InvalidInput

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FindingParity:
    """AUROC of one finding on both sides; difference: judged minus reference, paired: both sides of
    a round are of the same draw. NaN where only one class is present."""

    finding: str
    cases: int
    positives: int
    reference: float
    judged: float
    difference: Figure


@dataclass(frozen=True, eq=False)
class TaskParity:
    """ratio: macro AUROC of the judged one, divided by the reference's; NaN where that is 0.
    left_out: findings without an AUROC, which both means leave out."""

    findings: tuple[FindingParity, ...]
    reference: float
    judged: float
    difference: Figure
    ratio: Figure
    left_out: tuple[str, ...]

    def reaches(self, bar: float) -> bool:
        """Whether the judged one is as good; false where there is nothing to judge."""
        return self.judged >= bar * self.reference

    def doubt(self, bar: float) -> str:
        """Why the verdict at a bar may be due to chance; "" where nothing says so."""
        low, high = self.ratio.low, self.ratio.high
        if not np.isfinite(low):
            return "There is no interval: the verdict may be due to chance."
        if low < bar <= high:
            return (
                f"The interval reaches to both sides of {100 * bar:.6g}%: the verdict may be due "
                "to chance."
            )
        if len(few_of(self.findings)) == len(self.findings) - len(self.left_out):
            return "No finding has many cases: the verdict may be due to chance."
        return ""

    @property
    def judgeable(self) -> bool:
        """Whether any finding has an AUROC."""
        return len(self.left_out) < len(self.findings)


def compare(
    findings: Sequence[str], labels: Floats, judged: Floats, reference: Floats, draws: Draws
) -> TaskParity:
    """Compare two predictions of the same cases; all are (N, F), labels 1, 0, or NaN."""
    rows, ours, theirs, defined = [], [], [], []
    for at, finding in enumerate(findings):
        known = np.isfinite(labels[:, at])
        truth = labels[known, at]
        values = [auroc_and_ap(truth, side[known, at])["auroc"] for side in (reference, judged)]
        drawn = [areas(labels[:, at], side[:, at], draws)[0] for side in (reference, judged)]
        difference = Figure.of(values[1] - values[0], drawn[1] - drawn[0])
        rows.append(
            FindingParity(finding, len(truth), int(truth.sum()), values[0], values[1], difference)
        )
        if np.isfinite(values[0]):
            defined.append(rows[-1])
            theirs.append(drawn[0])
            ours.append(drawn[1])
    left_out = tuple(row.finding for row in rows if row not in defined)
    if not defined:
        nothing = Figure(np.nan, np.nan, np.nan)
        return TaskParity(tuple(rows), np.nan, np.nan, nothing, nothing, left_out)
    means = [float(np.mean([getattr(row, side) for row in defined]))
             for side in ("reference", "judged")]  # fmt: skip
    # As everywhere, a round counts where all findings have a value.
    drawn_means = [np.mean(side, axis=0) for side in (theirs, ours)]
    with np.errstate(divide="ignore", invalid="ignore"):  # a reference that is always wrong
        ratios = drawn_means[1] / drawn_means[0]
    return TaskParity(
        tuple(rows),
        means[0],
        means[1],
        Figure.of(means[1] - means[0], drawn_means[1] - drawn_means[0]),
        Figure.of(means[1] / means[0] if means[0] else np.nan, ratios),
        left_out,
    )


def compare_cases(judged: Cases, reference: Cases, draws: Draws) -> TaskParity:
    """The same for files.

    Raises: InvalidInput where they are not of the same scans and findings, or no finding has an
    AUROC.
    """
    for what, ours, theirs in (
        ("scans", judged.names, reference.names),
        ("findings", judged.findings, reference.findings),
    ):
        if set(ours) != set(theirs):
            only = [
                f"{len(names)} only in {option} ({first_of(names)})"
                for option, names in (
                    ("--predictions", sorted(set(ours) - set(theirs))),
                    ("--against", sorted(set(theirs) - set(ours))),
                )
                if names
            ]
            raise InvalidInput(
                f"--against: the labelled {what} are not those of --predictions: "
                f"{'; '.join(only)}.",
                "Compare predictions of the same scans, with the same findings.",
            )
    order = [reference.findings.index(finding) for finding in judged.findings]
    result = compare(
        judged.findings, judged.labels, judged.probabilities,
        reference.probabilities[:, order], draws,
    )  # fmt: skip
    if not result.judgeable:
        raise InvalidInput(
            "--against: no finding has cases of both classes, so that there is nothing to judge.",
            "Take labels with scans that have the findings and scans that have not.",
        )
    return result
