"""Retrieval by embeddings: a report's own volume, and volumes of the same findings.

Both as the scripts of CT-CLIP's authors compute them (github.com/ibrahimethemhamamci/CT-CLIP,
scripts/report_to_volume_new.py and scripts/volume_to_volume_new.py), said in our own words:

- recall@k: all volumes are ranked by their cosine with a report; the share of reports whose own
  volume is among the first k. Of equal cosines the volume that comes first in the file goes first.
- "MAP@k": of each volume the k most similar ones are taken out of all that have a finding, and the
  mean of the k Jaccard indices of their findings with its own (findings of both / findings of
  either); then the mean over volumes. It is no mean average precision in the usual sense.

The second script has three properties that its figures cannot be understood without. A volume is
its own best match, with index 1. A volume without any finding is asked for, too, and scores 0. And
the list of values is not emptied between one k and the next, so that what is called MAP@10 is the
mean of those at 1, 5 and 10. `as_upstream` keeps all three, to be compared with the published
figures; `other_patients` has none of them, and leaves out other scans of the same patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctclip_analysis.evaluate.resampling import Draws, Figure, draw

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Places = NDArray[np.intp]

RECALL_AT = (5, 10, 50, 100)
JACCARD_AT = (1, 5, 10, 50)
_CHUNK = 256
"""Rows of similarities at a time: 256 × 50,000 of them are 50 MB."""


@dataclass(frozen=True)
class AtK:
    """One figure. None where there are fewer than k volumes to take. chance: what a random order
    would have."""

    k: int
    figure: Figure | None
    chance: float | None


@dataclass(frozen=True)
class Similar:
    """Volume-to-volume. queries: volumes asked for; gallery: those that could be taken."""

    queries: int
    gallery: int
    figures: tuple[AtK, ...]


_NOTHING = tuple(AtK(k, None, None) for k in JACCARD_AT)


def recall(
    texts: Vectors, images: Vectors, own: Places, patients: Sequence[str]
) -> tuple[AtK, ...]:
    """recall@k of reports, with intervals by patient.

    Args:
        texts: (N, E), length 1.
        images: (V, E), length 1.
        own: (N,), the row of each report's volume in `images`.
        patients: one a report.
    """
    ranks = own_ranks(texts, images, own)
    hits = ranks[:, None] < np.array(RECALL_AT)
    figures = _means(hits.astype(np.float64), draw(patients))
    return tuple(
        AtK(k, figure, k / len(images)) if k <= len(images) else AtK(k, None, None)
        for k, figure in zip(RECALL_AT, figures, strict=True)
    )


def own_ranks(texts: Vectors, images: Vectors, own: Places) -> Places:
    """How many volumes come before each report's own: (N,)."""
    places = np.arange(len(images))
    ranks = np.empty(len(texts), np.intp)
    for rows, similarities in _similarities(texts, images):
        mine, at = own[rows, None], similarities[np.arange(len(similarities)), own[rows], None]
        before = (similarities > at) | ((similarities == at) & (places < mine))
        ranks[rows] = before.sum(axis=1)
    return ranks


def as_upstream(images: Vectors, labels: Floats) -> Similar:
    """Return "MAP@k" with all that the module's docstring says of it.

    There are no intervals, since each figure is a mean of several.

    images: (V, E), length 1. labels: (V, L), 1 or 0.
    """
    sick = np.flatnonzero(labels.any(axis=1))
    if not sick.size:
        return Similar(len(images), 0, _NOTHING)
    found, chance = _jaccard(images, labels, sick, None)
    figures: list[AtK] = []
    for column, k in enumerate(JACCARD_AT):
        if k > len(sick):
            figures.append(AtK(k, None, None))
        else:
            value = float(found[:, : column + 1].mean())
            figures.append(AtK(k, Figure(value, np.nan, np.nan), float(chance.mean())))
    return Similar(len(images), len(sick), tuple(figures))


def other_patients(images: Vectors, labels: Floats, patients: Sequence[str]) -> Similar:
    """The same of volumes that have a finding, among those of other patients that have one; with
    intervals by patient.

    images: (V, E), length 1. labels: (V, L), 1 or 0. patients: one a volume.
    """
    sick = np.flatnonzero(labels.any(axis=1))
    if not sick.size:
        return Similar(0, 0, _NOTHING)
    some = [patients[at] for at in sick]
    _, groups = np.unique(some, return_inverse=True)
    most = len(sick) - int(np.bincount(groups).max())  # whom the patient of most volumes can take
    everybody = np.arange(len(sick))
    found, chance = _jaccard(images[sick], labels[sick], everybody, groups)
    figures = _means(found, draw(some))
    return Similar(len(sick), len(sick), tuple(
        AtK(k, figure, float(chance.mean())) if k <= most else AtK(k, None, None)
        for k, figure in zip(JACCARD_AT, figures, strict=True)
    ))  # fmt: skip


def _jaccard(
    images: Vectors, labels: Floats, gallery: Places, groups: Places | None
) -> tuple[Floats, Floats]:
    """Of each volume the mean index of its first k of the gallery, (V, K), and of all of it (V,).

    groups: one a volume, and the gallery is all of them; those of its own group are not taken.
    """
    found = np.zeros((len(images), len(JACCARD_AT)))
    chance = np.zeros(len(images))
    theirs = labels[gallery]
    for rows, similarities in _similarities(images, images[gallery]):
        both = labels[rows] @ theirs.T
        either = labels[rows].sum(axis=1)[:, None] + theirs.sum(axis=1) - both
        index = both / either  # every volume of the gallery has a finding
        taken = np.ones_like(index, bool)
        if groups is not None:
            taken = groups[rows, None] != groups
        # Stable: of equal ones the first in the file goes first.
        ranked = np.where(taken, -similarities, np.inf)
        first = np.argsort(ranked, axis=1, kind="stable")[:, : max(JACCARD_AT)]
        best = np.take_along_axis(index, first, axis=1)
        for column, k in enumerate(JACCARD_AT):
            found[rows, column] = best[:, :k].mean(axis=1)
        chance[rows] = (index * taken).sum(axis=1) / np.maximum(taken.sum(axis=1), 1)
    return found, chance


def _similarities(rows: Vectors, columns: Vectors) -> Iterator[tuple[slice, Vectors]]:
    """Cosines (some rows, columns). Summed in float64, so that equal vectors have equal ones
    wherever they stand, and compared in float32, which the vectors are known to."""
    wide = columns.astype(np.float64).T
    for start in range(0, len(rows), _CHUNK):
        some = slice(start, min(start + _CHUNK, len(rows)))
        yield some, (rows[some].astype(np.float64) @ wide).astype(np.float32)


def _means(values: Floats, draws: Draws) -> list[Figure]:
    """The mean of each column (N, K), with its interval."""
    drawn = draws.sums(values) / draws.sums(np.ones((len(values), 1)))
    return [
        Figure.of(value, column)
        for value, column in zip(values.mean(axis=0), drawn.T, strict=True)
    ]  # fmt: skip
