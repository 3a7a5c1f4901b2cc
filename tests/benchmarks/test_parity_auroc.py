"""AUROC of the baseline and of a step, and labels that cannot be right."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ctclip_bench.parity.auroc import auroc, compare_auroc, read_labels
from ctclip_client.errors import InvalidInput


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    seed = 4
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, 40).astype(np.int8)
    scores = random.integers(0, 9, 40).astype(np.float32)  # with ties
    pairs = itertools.product(scores[truth == 1], scores[truth == 0])
    share = np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs])
    assert auroc(truth, scores) == pytest.approx(share)
    assert np.isnan(auroc(np.ones(5, np.int8), np.zeros(5, np.float32)))


def test_the_interval_holds_a_real_difference() -> None:
    seed = 9
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, (200, 1)).astype(np.int8)
    good = (truth + random.normal(0, 0.5, truth.shape)).astype(np.float32)
    noise = random.normal(0, 1, truth.shape).astype(np.float32)
    (same,) = compare_auroc(["x"], truth, good, good)
    assert (same.difference_low, same.difference_high) == (0.0, 0.0)
    (worse,) = compare_auroc(["x"], truth, good, noise)
    assert worse.difference_high < 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,A\na.nii,1\n", "no column 'B'"),
        ("name,A,B\nb.nii,1,0\n", "no row for 'a.nii'"),
        ("name,A,B\na.nii,1,2\n", "other values than 0 and 1"),
        ("name,A,B\na.nii,1,\n", "expected 0 or 1"),
        ("", "no column 'A'"),
    ],
)
def test_labels_that_cannot_be_right(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        read_labels(path, ["a.nii"], ["A", "B"])
