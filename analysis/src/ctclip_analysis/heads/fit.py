"""A linear head: for each class a logistic regression on standardised embeddings.

How good it is is told by nested cross-validation: each outer fold is scored by a model that was
fitted, and whose strength of regularisation was chosen, without the patients of that fold.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

FOLDS, INNER_FOLDS = 5, 3
FEWEST_PATIENTS = 2 * FOLDS
"""With a class, and without it: two for each fold, so that the inner folds have some, too."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""scikit-learn's C: the smaller, the stronger the regularisation."""
_LEAST_SCALE = 1e-3
"""Of the largest. A dimension that hardly varies would be blown up to noise, and its weight to a
number that float32 cannot hold beside the others."""
_MOST_ITERATIONS = 10_000


@dataclass(frozen=True, eq=False)
class Sample:
    """What one class is fitted to: scans that have a label for it.

    vectors: (N, E) float64. present: (N,) bool. patients: (N,) integers.
    """

    vectors: Floats
    present: NDArray[np.bool_]
    patients: Places

    def at(self, places: Places) -> Sample:
        """Some of the scans."""
        return Sample(self.vectors[places], self.present[places], self.patients[places])

    def by_patient(self) -> tuple[Places, NDArray[np.bool_]]:
        """The patients (P,), and whether any scan of each has the class."""
        patients, places = np.unique(self.patients, return_inverse=True)
        return patients, np.bincount(places, self.present) > 0


@dataclass(frozen=True, eq=False)
class FittedClass:
    """probability = sigmoid(weight · embedding + bias); weight: (E,), of the embedding as it is.

    strength: the C that was chosen. out_of_fold: (N,) probabilities, each by a model that has not
    seen the patient; auroc and average_precision are theirs, all folds together.
    """

    weight: Floats
    bias: float
    strength: float
    out_of_fold: Floats
    auroc: float
    average_precision: float


def fit_class(sample: Sample, seed: int) -> FittedClass:
    """Fit one class, which `FEWEST_PATIENTS` have, and as many have not."""
    folds = _folds(sample, FOLDS, seed)
    out_of_fold = np.empty(len(sample.present))
    for train, test in folds:
        part = sample.at(train)
        strength = _best_strength(part, _folds(part, INNER_FOLDS, seed))
        weight, bias = _fitted(part, [strength])[0]
        out_of_fold[test] = _probabilities(sample.vectors[test], weight, bias)
    strength = _best_strength(sample, folds)
    weight, bias = _fitted(sample, [strength])[0]
    return FittedClass(
        weight, bias, strength, out_of_fold,
        float(roc_auc_score(sample.present, out_of_fold)),
        float(average_precision_score(sample.present, out_of_fold)),
    )  # fmt: skip


def served_difference(vectors: Floats, weight: Floats, bias: Floats, mean: Floats) -> float:
    """The largest |difference| of a probability by float32, as served, from float64.

    weight: (C, E), bias: (C,), of embeddings minus their mean (E,).
    """
    exact = _probabilities(vectors - mean, weight.T, bias)
    x, w, b, m = (each.astype(np.float32) for each in (vectors, weight, bias, mean))
    single = np.exp(-np.logaddexp(np.float32(0), -((x - m) @ w.T + b)))
    return float(np.abs(single - exact).max())


def _folds(sample: Sample, count: int, seed: int) -> list[tuple[Places, Places]]:
    """Places of (train, test). Patients are dealt out, those with the class as evenly as the
    others: none is on both sides, and each side has scans of both kinds."""
    patients, present = sample.by_patient()
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    tests = (
        np.isin(sample.patients, patients[chosen]) for _, chosen in splitter.split(present, present)
    )
    return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tests]


def _best_strength(sample: Sample, folds: Sequence[tuple[Places, Places]]) -> float:
    """The C of the least log loss on the folds' own scans; the smallest of equals.

    Nearly all of the fits are for this: in float32 they take half the time and choose the same.
    """
    losses = np.zeros(len(STRENGTHS))
    for train, test in folds:
        for index, (weight, bias) in enumerate(_fitted(sample.at(train), STRENGTHS, np.float32)):
            probabilities = _probabilities(sample.vectors[test], weight, bias)
            losses[index] += log_loss(sample.present[test], probabilities, normalize=False)
    return STRENGTHS[int(np.argmin(losses))]


def _fitted(
    sample: Sample, strengths: Sequence[float], precision: type[np.floating[Any]] = np.float64
) -> list[tuple[Floats, float]]:
    """Weight (E,) and bias of each of the ascending strengths, which begin where the one before has
    ended. Standardised by this sample, and that folded in. precision: that it is fitted in."""
    mean, spread = sample.vectors.mean(axis=0), sample.vectors.std(axis=0)
    scale = np.maximum(spread, _LEAST_SCALE * spread.max()) if spread.any() else spread + 1
    standardised = ((sample.vectors - mean) / scale).astype(precision, copy=False)
    found = []
    model = LogisticRegression(max_iter=_MOST_ITERATIONS, warm_start=True)
    with warnings.catch_warnings():
        # It ends so, too, where it begins at the best there is; the folds judge what it finds.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for strength in strengths:
            model.set_params(C=strength).fit(standardised, sample.present)
            weight = model.coef_[0] / scale
            found.append((weight, float(model.intercept_[0] - weight @ mean)))
    return found


def _probabilities(vectors: Floats, weight: Floats, bias: float | Floats) -> Floats:
    logits = vectors @ weight + bias
    probabilities: Floats = np.exp(-np.logaddexp(0, -logits))
    return probabilities
