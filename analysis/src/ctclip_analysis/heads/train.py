"""From embeddings and labels to a head: which scans have a label, which classes can be fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ctclip_analysis.embeddings import Embeddings
from ctclip_analysis.heads.fit import (
    FEWEST_PATIENTS,
    FOLDS,
    INNER_FOLDS,
    FittedClass,
    Sample,
    fit_class,
    served_difference,
)
from ctclip_analysis.labels import Labels
from ctclip_analysis.scan_names import join_names
from ctclip_client.errors import InvalidInput
from ctclip_client.release.linear_head import (
    KIND,
    VERSION,
    LinearHead,
    TrainedOn,
    problems_of_origin,
)
from ctclip_client.system.terminal import command_line

_CASES = "Give more labelled scans, or name the classes to fit"


@dataclass(frozen=True, eq=False)
class Matched:
    """Scans that have both an embedding and a row of labels.

    vectors: (N, E) float64. values: (N, C), 1, 0 or NaN. patients: (N,) integers. told_by: what
    tells patients. alone: how many scans no name tells the patient of. without_labels: scans that
    no row is about. without_scans: rows that are about no scan.
    """

    vectors: NDArray[np.float64]
    values: NDArray[np.float64]
    patients: NDArray[np.intp]
    told_by: str
    alone: int
    without_labels: tuple[str, ...]
    without_scans: tuple[str, ...]


@dataclass(frozen=True)
class ClassResult:
    """One class, for a table. scans: that have a label for it; positives: of them; patients: of
    those. strength: scikit-learn's C. The last two are out of fold."""

    name: str
    scans: int
    positives: int
    patients: int
    strength: float
    auroc: float
    average_precision: float


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """float32_difference: the largest of any probability, as served, from float64."""

    head: LinearHead
    results: tuple[ClassResult, ...]
    float32_difference: float


def matched(embeddings: Embeddings, labels: Labels) -> Matched:
    """Join by the scans' names. Raises: InvalidInput where nothing, or no one row, matches."""
    joined = join_names(embeddings.names, labels.scans, embeddings.path, f"--labels: {labels.path}")
    rows = list(joined.rows)
    known_patients = labels.patients_of(rows)
    _, patients = np.unique(known_patients.ids, return_inverse=True)
    return Matched(
        embeddings.vectors[list(joined.scans)].astype(np.float64),
        labels.values[rows],
        patients,
        known_patients.told_by,
        known_patients.alone,
        joined.scans_alone,
        joined.rows_alone,
    )


def train(
    embeddings: Embeddings,
    labels: Labels,
    scans: Matched,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> TrainedHead:
    """Fit every class of the labels; scans without a label for a class are left out of that one.

    Raises: InvalidInput naming the classes that too few patients have, or have not.
    """
    trained_on = _trained_on(embeddings, len(scans.vectors))
    samples = [_sample(scans, column) for column in range(len(labels.findings))]
    _check_counts(labels.findings, samples)
    fitted = []
    # One core: these products are small, and threads that wait for each other cost more than half
    # of the time. It also makes the result independent of their number.
    with threadpool_limits(1):
        for sample in samples:
            fitted.append(fit_class(sample, seed))
            advance(1)
    results = tuple(map(_result, labels.findings, samples, fitted))
    mean = scans.vectors.mean(axis=0)
    weight = np.stack([each.weight for each in fitted])
    bias = np.array([each.bias for each in fitted]) + weight @ mean
    head = LinearHead(
        KIND, VERSION, labels.findings, weight.shape[1],
        tuple(map(tuple, weight.tolist())), tuple(bias.tolist()), tuple(mean.tolist()),
        trained_on,
        {
            "folds": FOLDS, "inner_folds": INNER_FOLDS, "seed": seed,
            "patients_told_by": scans.told_by, "labels_sha256": labels.sha256,
            "classes": [dict(vars(each)) for each in results],
        },
    )  # fmt: skip
    return TrainedHead(head, results, served_difference(scans.vectors, weight, bias, mean))


def _trained_on(embeddings: Embeddings, scans: int) -> TrainedOn:
    origin = embeddings.origin
    trained_on = TrainedOn(
        origin.release, origin.checkpoint, origin.checkpoint_sha256, origin.precision,
        origin.random_weights, origin.geometry, scans,
    )  # fmt: skip
    for problem in problems_of_origin(trained_on):
        raise InvalidInput(
            f"--embeddings: {embeddings.path}: {problem}.",
            "Embed the scans by a release whose names can be shown.",
        )
    return trained_on


def _sample(scans: Matched, column: int) -> Sample:
    known = np.flatnonzero(~np.isnan(scans.values[:, column]))
    present = scans.values[known, column] == 1
    return Sample(scans.vectors[known], present, scans.patients[known])


def _check_counts(names: Sequence[str], samples: Sequence[Sample]) -> None:
    few, enough = [], []
    for name, sample in zip(names, samples, strict=True):
        patients, present = sample.by_patient()
        having = int(present.sum())
        without = len(patients) - having
        if min(having, without) < FEWEST_PATIENTS:
            few.append(f"{name} ({having} with, {without} without)")
        else:
            enough.append(name)
    if few:
        remedy = f"{_CASES}: {command_line('--classes', *enough)}" if enough else f"{_CASES}."
        raise InvalidInput(
            f"--labels: {FEWEST_PATIENTS} patients with a class are needed, and "
            f"{FEWEST_PATIENTS} without; too few of: {', '.join(few)}.",
            remedy,
        )


def _result(name: str, sample: Sample, fitted: FittedClass) -> ClassResult:
    return ClassResult(
        name, len(sample.present), int(sample.present.sum()), len(sample.by_patient()[0]),
        fitted.strength, fitted.auroc, fitted.average_precision,
    )  # fmt: skip
