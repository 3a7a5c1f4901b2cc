"""Area under the ROC curve of each finding, of the baseline and of a step, and their difference."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_export.parity.figures import ranks

BOOTSTRAP_ROUNDS = 1000
_SEED = 0
_LABELS = "Each cell below a finding says whether the scan has it: 1, or else 0."


@dataclass(frozen=True)
class Auroc:
    """One finding: AUROC of the baseline, of the step that is compared (`served`: the last that
    answered), and the 95 % interval of their difference by bootstrap over scans. NaN where only one
    class is present.
    """

    finding: str
    positives: int
    baseline: float
    served: float
    difference_low: float
    difference_high: float


def read_labels(path: Path, scans: Sequence[str], findings: Sequence[str]) -> NDArray[np.int8]:
    """Labels (scans, F) from a CSV whose first column names the scan's file and whose other columns
    are findings with 0 or 1, as CT-RATE's label files are.

    Raises: Unreadable, InvalidInput naming the column or the scan that is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise Unreadable(f"--labels: {path}: {said}.", "Give a CSV file in UTF-8.") from error
    columns = list(reader.fieldnames or ()) if rows else []
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"--labels: {path} has the column '{twice}' twice.", "Leave one out.")
    missing = [name for name in findings if name not in columns]
    if missing:
        raise InvalidInput(
            f"--labels: {path} has no column '{missing[0]}'.",
            "Expected a column for each finding of the repository, beside the file name.",
        )
    by_name: dict[str, dict[str, str]] = {}
    for row in rows:
        name = row[columns[0]]
        if name not in scans:
            continue
        if None in row or by_name.setdefault(name, row) is not row:
            what = f"two rows for '{name}'" if None not in row else f"more cells for '{name}'"
            raise InvalidInput(
                f"--labels: {path} has {what}, expected one row a scan, with a cell for each of "
                f"its {len(columns)} columns.",
                "Which of the labels are meant is unknown: mend the file.",
            )
    unknown = next((name for name in scans if name not in by_name), None)
    if unknown is not None:
        raise InvalidInput(
            f"--labels: {path} has no row for '{unknown}'.",
            f"Its column '{columns[0]}' must hold the file names of --scans.",
        )
    try:
        table = [[int(by_name[scan][finding]) for finding in findings] for scan in scans]
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"--labels: {path}: {error}; expected 0 or 1.", _LABELS) from error
    labels = np.array(table, np.int8)
    if not np.isin(labels, (0, 1)).all():
        raise InvalidInput(f"--labels: {path} holds other values than 0 and 1.", _LABELS)
    return labels


def compare_auroc(
    findings: Sequence[str],
    labels: NDArray[np.int8],
    baseline: NDArray[np.float32],
    served: NDArray[np.float32],
) -> list[Auroc]:
    """AUROC of each finding; labels, baseline and served are (scans, F)."""
    random = np.random.default_rng(_SEED)
    draws = random.integers(0, len(labels), (BOOTSTRAP_ROUNDS, len(labels)))
    results = []
    for index, finding in enumerate(findings):
        truth, ours, theirs = labels[:, index], served[:, index], baseline[:, index]
        differences = [auroc(truth[d], ours[d]) - auroc(truth[d], theirs[d]) for d in draws]
        known = np.array(differences)[np.isfinite(differences)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        results.append(
            Auroc(
                finding, int(truth.sum()), auroc(truth, theirs), auroc(truth, ours),
                float(low), float(high),
            )
        )  # fmt: skip
    return results


def auroc(truth: NDArray[np.int8], scores: NDArray[np.float32]) -> float:
    """Share of (positive, negative) pairs in the right order, ties half; NaN without both classes.

    The rank-sum form of Mann and Whitney (1947).
    """
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    order = ranks(scores)
    return float(
        (order[truth == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    )
