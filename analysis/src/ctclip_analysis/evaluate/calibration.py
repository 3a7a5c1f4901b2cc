"""Whether 30 % means three in ten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Cases of similar probability: their mean, how many have the finding, how many there are."""

    predicted: float
    observed: float
    cases: int


@dataclass(frozen=True)
class Calibration:
    """ece: expected calibration error, the mean over cases of |predicted - observed| of their bin;
    NaN without cases."""

    ece: float
    bins: tuple[Bin, ...]


def calibrate(labels: Floats, scores: Floats) -> Calibration:
    """The reliability curve, and its distance from the diagonal.

    Expected calibration error as in Guo et al. (2017, arXiv:1706.04599), but in ten bins with as
    many cases each (Nixon et al. 2019, arXiv:1904.01685): zero-shot probabilities lie close
    together, and most bins of equal width would be empty. Equal probabilities share a bin, so that
    there may be fewer. There is no interval: ECE is biased upwards, in draws twice, and may lie
    below the percentiles of its own draws (docs/evaluation.md has figures).

    Args:
        labels: (N,), 0 and 1.
        scores: (N,), in [0, 1].
    """
    if not len(scores):
        return Calibration(np.nan, ())
    edges = np.quantile(scores, np.arange(1, BINS) / BINS, method="inverted_cdf")
    places = np.searchsorted(np.unique(edges), scores, side="left")
    bins = tuple(
        Bin(
            float(scores[places == place].mean()),
            float(labels[places == place].mean()),
            int((places == place).sum()),
        )
        for place in np.unique(places)
    )
    distance = sum(each.cases * abs(each.predicted - each.observed) for each in bins)
    return Calibration(distance / len(scores), bins)
