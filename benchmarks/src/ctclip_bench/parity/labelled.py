"""The labels of the scans that are compared, and how well both sides answer the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctclip_analysis.evaluate import BARS
from ctclip_analysis.evaluate.resampling import draw
from ctclip_analysis.evaluate.task_parity import TaskParity, compare
from ctclip_analysis.labels import read_labels
from ctclip_analysis.scan_names import match_names
from ctclip_client.errors import InvalidInput
from ctclip_export.parity.judge import StepVerdict

TASK = "task: AUROC"
"""No step that answers, but printed and kept as one: what the last one that did is worth."""


@dataclass(frozen=True, eq=False)
class ScanLabels:
    """values: (scans, F), 1 present, 0 absent, NaN unknown; patients: one a scan."""

    findings: tuple[str, ...]
    values: NDArray[np.float64]
    patients: tuple[str, ...]

    def compare(self, baseline: NDArray[np.float32], served: NDArray[np.float32]) -> TaskParity:
        """AUROC of both sides; probabilities are (scans, F)."""
        judged, reference = (side.astype(np.float64) for side in (served, baseline))
        return compare(self.findings, self.values, judged, reference, draw(self.patients))


def task_verdict(task: TaskParity, scans: int) -> StepVerdict:
    """Whether the task is done as well as by the baseline, at the stricter of MLPerf's bars."""
    if not task.judgeable:
        return StepVerdict(TASK, "NOT RUN", "no finding has scans of both classes", scans)
    if task.reaches(BARS[0]):
        return StepVerdict(TASK, "PASS", "", scans)
    reason = f"{task.ratio.value:.3%} of the baseline's, allowed {BARS[0]:.1%} or more"
    return StepVerdict(TASK, "FAIL", reason, scans)


def labels_of(path: Path, scans: Sequence[str], findings: Sequence[str]) -> ScanLabels:
    """The labels of all scans for all findings, in their order.

    Raises: Unreadable; InvalidInput naming the column or the scan that is missing.
    """
    labels = read_labels(path, findings)
    missing = next((name for name in findings if name not in labels.findings), None)
    if missing is not None:
        raise InvalidInput(
            f"--labels: {path} has no column '{missing}'.",
            "Expected a column for each finding of the repository, beside the file name.",
        )
    rows = match_names(scans, labels.scans)
    found = [row for row in rows if row is not None]
    if len(found) < len(scans):
        raise InvalidInput(
            f"--labels: {path} has no row for '{scans[rows.index(None)]}'.",
            "It must name the files of --scans.",
        )
    patients = tuple(labels.patients.ids[row] for row in found)
    return ScanLabels(tuple(findings), labels.values[found], patients)
