"""Thresholds: fitted on one file of predictions, kept, and applied to another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctclip_analysis.evaluate.cases import Cases
from ctclip_analysis.evaluate.same_scans import shared
from ctclip_analysis.predictions import Predictions
from ctclip_client.errors import InvalidInput
from ctclip_client.system.files import whole_file
from ctclip_client.thresholds import KIND, VERSION, read_thresholds

Floats = NDArray[np.float64]
METHODS = {
    "youden": "the largest sensitivity + specificity - 1 (Youden 1950)",
    "f1": "the largest F1",
}


@dataclass(frozen=True)
class OperatingPoints:
    """Where "positive" begins: at a finding's threshold or above.

    origin: where they come from, in words, without folders: pages are sent to others. release:
    whose answers they were fitted on, None where that is unknown. shared: on how many of these
    scans they were fitted; None where that is unknown.
    """

    thresholds: Mapping[str, float]
    method: str
    origin: str
    shared: int | None
    release: str | None = None

    @property
    def same_data(self) -> bool | None:
        """Whether the scans were at hand when they were fitted."""
        return None if self.shared is None else self.shared > 0


def fit(cases: Cases, method: str) -> OperatingPoints:
    """A threshold for each finding that has cases of both classes.

    Candidates are the probabilities that occur; of several that are equally good, the highest. What
    is joined from several findings is no finding of a release, and gets none.
    """
    found = {}
    for at, finding in enumerate(cases.findings):
        known = np.isfinite(cases.labels[:, at])
        labels, scores = cases.labels[known, at], cases.probabilities[known, at]
        if 0 < labels.sum() < len(labels) and finding not in cases.mismatches.joined:
            found[finding] = best_threshold(labels, scores, method)
    if not found:
        raise InvalidInput(
            "--fit-thresholds: no finding has cases of both classes, so that none can be fitted.",
            "Take a file with scans that have the findings and scans that have not.",
        )
    return OperatingPoints(found, method, "fitted on these predictions", len(cases.digests))


def best_threshold(labels: Floats, scores: Floats, method: str) -> float:
    """labels: (N,), 0 and 1, both there. scores: (N,)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(labels[order])[ends]
    alarms = ends + 1 - hits
    positives = labels.sum()
    if method == "youden":
        # times both counts: whole numbers, so that what is equally good is equal
        good = hits * (len(labels) - positives) - alarms * positives
    else:
        good = 2 * hits / (positives + hits + alarms)
    return float(scores[order][ends[np.argmax(good)]])


def write(path: Path, points: OperatingPoints, predictions: Predictions, cases: Cases) -> None:
    """Keep thresholds, with what they were fitted on. Raises: InvalidInput."""
    content = {
        "kind": KIND,
        "version": VERSION,
        "method": points.method,
        "thresholds": dict(points.thresholds),
        "fitted_on": {
            "predictions_sha256": predictions.sha256,
            "labels_sha256": cases.labels_sha256,
            "cases": len(cases.names),
            "group": cases.group,
            **vars(predictions.origin),
            "scans": " ".join(cases.digests),
        },
    }
    with whole_file(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")


def read(path: Path, predictions: Predictions, cases: Cases) -> OperatingPoints:
    """Thresholds of a file, and whether they were fitted on this data.

    Raises: Unreadable, InvalidInput for thresholds of findings that were not predicted.
    """
    known = read_thresholds(path)
    known.check_known(predictions.findings)
    fitted_on = known.fitted_on
    scans, release = fitted_on.get("scans"), fitted_on.get("release")
    if not isinstance(scans, str):
        return OperatingPoints(known.values, known.method, path.name, None)
    said = ", ".join(
        f"{name} {fitted_on[name]}" for name in ("release", "precision", "group", "cases")
        if fitted_on.get(name) is not None
    )  # fmt: skip
    return OperatingPoints(
        known.values, known.method, f"{path.name} (fitted on {said})",
        shared(cases.digests, scans.split()),
        release if isinstance(release, str) else None,
    )  # fmt: skip
