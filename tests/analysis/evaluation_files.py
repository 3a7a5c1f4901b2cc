"""Predictions and labels as files, made from a seed."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctclip_client.batch.tables import COLUMNS

FINDINGS = ("Cardiomegaly", "Lung nodule", "Emphysema")
Run = Callable[..., Any]
"""The fixture `run`: `ctclip evaluate` with options; its error, its tables, or its JSON."""
ORIGIN = {"release": "r1", "checkpoint": "c.pt", "precision": "fp32", "random_weights": "false"}


@dataclass(frozen=True)
class Files:
    """names: of files, as CT-RATE's. labels: (N, F), 1, 0 or NaN. scores: (N, F)."""

    names: Sequence[str]
    labels: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any]


def made(seed: int, patients: int = 30, split: str = "valid") -> Files:
    """Patients with one to three reconstructions, ties, and unknown labels.

    The labels of a scan are those of all its reconstructions.
    """
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    scans = [(p, scan) for p in range(1, patients + 1) for scan in "ab"[: random.integers(1, 3)]]
    truth = random.integers(0, 2, (len(scans), len(FINDINGS))).astype(float)
    truth[random.random(truth.shape) < 0.1] = np.nan
    names, labels, scores = [], [], []
    for (patient, scan), own in zip(scans, truth, strict=True):
        for number in range(1, random.integers(2, 4)):
            names.append(f"{split}_{patient}_{scan}_{number}.nii.gz")
            labels.append(own)
            noise = random.integers(0, 8, len(FINDINGS))
            scores.append((2 * np.nan_to_num(own) + noise) / 10)  # few values: ties
    return Files(names, np.array(labels), np.array(scores))


def write_labels(path: Path, files: Files, findings: Sequence[str] = FINDINGS) -> Path:
    """As CT-RATE's."""
    rows = [
        [name, *("" if np.isnan(value) else int(value) for value in values)]
        for name, values in zip(files.names, files.labels, strict=True)
    ]
    return write_table(path, [["VolumeName", *findings], *rows])


def write_wide(path: Path, files: Files, findings: Sequence[str] = FINDINGS) -> Path:
    """As other programs write predictions."""
    rows = [[f"/data/{name}", *values] for name, values in
            zip(files.names, files.scores.tolist(), strict=True)]  # fmt: skip
    return write_table(path, [["scan", *findings], *rows])


def write_long(path: Path, files: Files, findings: Sequence[str] = FINDINGS, **origin: str) -> Path:
    """As `ctclip predict --csv` does, with its columns."""
    rows = []
    for name, values in zip(files.names, files.scores.tolist(), strict=True):
        for finding, value in zip(findings, values, strict=True):
            row = {"path": f"/data/{name}", "finding": finding, "probability": value}
            rows.append([{**ORIGIN, **origin, **row}.get(column, "") for column in COLUMNS])
    return write_table(path, [list(COLUMNS), *rows])


def write_table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows(rows)
    return path
