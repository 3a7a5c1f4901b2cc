"""Intervals by the bootstrap: patients are drawn anew, and every figure is computed for each draw.

A draw is a number of times that each case counts, so that all draws are computed at once, without
sorting anything again. Percentile intervals as in Efron and Tibshirani (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUNDS = 1000
SEED = 0
LEVEL = 0.95
LEAST = 0.5
"""Share of the rounds that must have a value; with fewer there is no interval."""
_CHUNK = 128
"""Rounds at a time: what they need stays in the processor's caches."""


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval. NaN: it is not defined, or there is no interval.

    left_out: how many rounds had no value, as where all cases that were drawn are of one class.
    """

    value: float
    low: float
    high: float
    left_out: int = 0

    @classmethod
    def of(cls, value: float, drawn: Floats) -> Figure:
        """drawn: (rounds,), NaN where it is not defined."""
        known = drawn[np.isfinite(drawn)]
        left_out = len(drawn) - len(known)
        if not np.isfinite(value) or len(known) < LEAST * len(drawn):
            return cls(float(value), np.nan, np.nan, left_out)
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(value), float(low), float(high), left_out)


@dataclass(frozen=True, eq=False)
class Draws:
    """times: (N, rounds) float64, how often each case counts in each round: as often as its patient
    was drawn. All cases of a patient go together, since they are alike. patients: how many there
    are."""

    times: Floats
    patients: int

    @property
    def rounds(self) -> int:
        """How many."""
        return self.times.shape[1]

    def sums(self, values: Floats) -> Floats:
        """Of values (N, F) in each round: (rounds, F)."""
        total: Floats = (values.T @ self.times).T
        return total


def draw(patients: Sequence[str], rounds: int = ROUNDS, seed: int = SEED) -> Draws:
    """Draw as many patients as there are, with replacement. patients: one a case."""
    distinct, of_case = np.unique(np.array(patients, dtype=object).astype(str), return_inverse=True)
    count = len(distinct)
    random = np.random.default_rng(seed)
    drawn = random.integers(0, count, (rounds, count))
    offsets = np.arange(rounds)[:, None] * count
    counts = np.bincount((drawn + offsets).ravel(), minlength=rounds * count)
    times = counts.reshape(rounds, count)[:, of_case].T
    return Draws(np.ascontiguousarray(times, np.float64), count)


def areas(labels: Floats, scores: Floats, draws: Draws) -> tuple[Floats, Floats]:
    """AUROC and average precision of one finding in each round: (rounds,) each, NaN where all cases
    drawn are of one class.

    AUROC is the share of (positive, negative) pairs in the right order, ties half (Mann and Whitney
    1947). Average precision is the sum of the precision at each threshold, times the share of the
    positives that it adds; cases of one score come together, as scikit-learn has it.

    Args:
        labels: (N,), 1, 0, or NaN for cases that do not count.
        scores: (N,).
    """
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(labels[order])]
    positive = labels[order] == 1
    rounds = draws.rounds
    if not positive.any() or positive.all():
        nothing = np.full(rounds, np.nan)
        return nothing, nothing.copy()
    # Groups of one score, the highest first; only those that hold a positive add anything.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    starts = np.append(0, ends[:-1] + 1)
    positives_to = np.cumsum(positive)[ends]
    holds = np.diff(positives_to, prepend=0) > 0
    starts, ends, positives_to = starts[holds], ends[holds], positives_to[holds]
    auroc, precision = np.empty(rounds), np.empty(rounds)
    with np.errstate(invalid="ignore", divide="ignore"):
        for at in range(0, rounds, _CHUNK):
            times = draws.times[order, at : at + _CHUNK]
            hits = np.cumsum(times[positive], axis=0)[positives_to - 1]  # (groups, rounds)
            all_to = np.cumsum(times, axis=0)
            before = np.where((starts > 0)[:, None], all_to[starts - 1], 0.0)
            all_hits, total = hits[-1], all_to[-1]
            new_hits = np.diff(hits, axis=0, prepend=0.0)
            new_misses = all_to[ends] - before - new_hits
            misses = all_to[ends] - hits
            lower = (total - all_hits) - misses  # negatives that score less
            pairs = (new_hits * (lower + new_misses / 2)).sum(axis=0)
            auroc[at : at + _CHUNK] = pairs / (all_hits * (total - all_hits))
            shares = np.divide(hits, all_to[ends], out=np.zeros_like(hits), where=hits > 0)
            precision[at : at + _CHUNK] = (new_hits * shares).sum(axis=0) / all_hits
    precision[np.isnan(auroc)] = np.nan
    return auroc, precision
