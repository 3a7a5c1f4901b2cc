"""Task parity and thresholds: what holds on one side is judged on the other."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctclip_analysis.evaluate import BARS
from ctclip_analysis.evaluate.cases import Cases, join
from ctclip_analysis.evaluate.operating_points import best_threshold, fit, read, write
from ctclip_analysis.evaluate.resampling import draw
from ctclip_analysis.evaluate.task_parity import TaskParity, compare, compare_cases
from ctclip_analysis.predictions import Predictions, read_predictions
from ctclip_client.errors import InvalidInput
from ctclip_client.thresholds import read_thresholds

from .evaluation_files import FINDINGS, Files, made, write_labels, write_long, write_wide


def area(labels: Sequence[float], scores: Sequence[float]) -> float:
    has = [s for y, s in zip(labels, scores, strict=True) if y == 1]
    has_not = [s for y, s in zip(labels, scores, strict=True) if y == 0]
    pairs = list(itertools.product(has, has_not))
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)


def loaded(folder: Path, files: Files, group: str = "reconstruction") -> tuple[Predictions, Cases]:
    predictions = read_predictions(write_wide(folder / "p.csv", files))
    return predictions, join(predictions, write_labels(folder / "l.csv", files), group)


def noisy(files: Files, size: float) -> Files:
    noise = np.random.default_rng(0).normal(0, size, files.scores.shape)
    return Files(files.names, files.labels, np.clip(files.scores + noise, 0, 1))


def test_differences_are_paired_and_by_hand(tmp_path: Path) -> None:
    files = made(11, 60)
    _, reference = loaded(tmp_path, files)
    _, judged = loaded(tmp_path, noisy(files, 0.2))
    draws = draw(reference.patients.ids, rounds=80)
    found = compare_cases(judged, reference, draws)
    ours, theirs = [], []
    for at, row in enumerate(found.findings):
        labels = judged.labels[:, at].tolist()
        sides = [cases.probabilities[:, at].tolist() for cases in (judged, reference)]
        assert (row.judged, row.reference) == tuple(pytest.approx(area(labels, s)) for s in sides)
        drawn = []
        for number in range(80):
            times = draws.times[:, number].astype(int)
            again = [index for index, n in enumerate(times) for _ in range(n)]
            drawn.append(
                [area([labels[i] for i in again], [side[i] for i in again]) for side in sides]
            )
        ours.append([one for one, _ in drawn])
        theirs.append([other for _, other in drawn])
        low, high = np.percentile(np.subtract(*zip(*drawn, strict=True)), [2.5, 97.5])
        assert (row.difference.low, row.difference.high) == (
            pytest.approx(low), pytest.approx(high),
        )  # fmt: skip
    ratios = np.mean(ours, axis=0) / np.mean(theirs, axis=0)
    means = [np.mean([getattr(row, side) for row in found.findings])
             for side in ("judged", "reference")]  # fmt: skip
    assert found.ratio.value == pytest.approx(means[0] / means[1])
    assert found.ratio.high == pytest.approx(np.percentile(ratios, 97.5))


def verdicts(found: TaskParity) -> list[bool]:
    return [found.reaches(bar) for bar in BARS]


def test_the_bars(tmp_path: Path) -> None:
    files = made(12, 60)
    _, reference = loaded(tmp_path, files)
    draws = draw(reference.patients.ids)
    same = compare_cases(reference, reference, draws)
    assert (same.ratio.value, same.ratio.low, same.ratio.high) == (1, 1, 1)
    assert verdicts(same) == [True, True]
    _, worse = loaded(tmp_path, noisy(files, 0.5))
    found = compare_cases(worse, reference, draws)
    assert found.difference.high < 0
    assert verdicts(found) == [False, False]
    assert verdicts(compare_cases(reference, worse, draws)) == [True, True]


def test_a_verdict_that_may_be_due_to_chance_says_so(tmp_path: Path) -> None:
    files = made(12, 12)
    _, reference = loaded(tmp_path, files)
    _, other = loaded(tmp_path, noisy(files, 0.1))
    draws = draw(reference.patients.ids)
    found = compare_cases(other, reference, draws)
    assert found.ratio.low < 0.99 < found.ratio.high
    assert "both sides of 99%" in found.doubt(0.99)
    assert compare_cases(reference, reference, draws).doubt(0.999) == ""


def test_a_reference_that_is_always_wrong() -> None:
    labels = np.array([[1.0], [0.0], [0.0]])
    right, wrong = np.array([[0.9], [0.1], [0.2]]), np.array([[0.1], [0.8], [0.9]])
    draws = draw(list("abc"))
    found = compare(["x"], labels, right, wrong, draws)
    assert (found.judged, found.reference) == (1, 0)
    assert math.isnan(found.ratio.value)
    assert found.reaches(1)
    assert "no interval" in found.doubt(0.999)
    assert not compare(["x"], labels, wrong, right, draws).reaches(0.99)


@pytest.mark.parametrize(("loss", "expected"), [(0.0005, [True, True]), (0.005, [False, True]),
                                                (0.02, [False, False])])  # fmt: skip
def test_a_loss_of_so_many_pairs(loss: float, expected: list[bool]) -> None:
    """One positive and 10,000 negatives: AUROC is the share of the negatives below it."""
    labels = np.array([[1.0], *[[0.0]] * 10_000])
    perfect = np.concatenate([[1.0], np.linspace(0.1, 0.9, 10_000)])[:, None]
    worse = perfect.copy()
    worse[0] = np.quantile(perfect[1:], 1 - loss)
    found = compare(["x"], labels, worse, perfect, draw([f"{n}" for n in range(10_001)], rounds=3))
    assert found.ratio.value == pytest.approx(1 - loss, abs=1e-4)
    assert verdicts(found) == expected


def test_what_has_one_class_is_left_out_of_both(tmp_path: Path) -> None:
    files = made(13)
    files.labels[:, 0] = 1
    _, cases = loaded(tmp_path, files)
    found = compare_cases(cases, cases, draw(cases.patients.ids))
    assert found.left_out == ("Cardiomegaly",)
    assert found.reference == pytest.approx(np.mean([row.judged for row in found.findings[1:]]))
    assert math.isnan(found.findings[0].difference.low)
    files.labels[:] = 0
    _, cases = loaded(tmp_path, files)
    with pytest.raises(InvalidInput, match="nothing to judge"):
        compare_cases(cases, cases, draw(cases.patients.ids))


def test_other_scans_or_findings_are_no_comparison(tmp_path: Path) -> None:
    files = made(14)
    _, whole = loaded(tmp_path, files)
    draws = draw(whole.patients.ids)
    _, part = loaded(tmp_path, Files(files.names[3:], files.labels[3:], files.scores[3:]))
    with pytest.raises(InvalidInput, match=r"scans .*3 only in --predictions \(valid_1_a_1"):
        compare_cases(whole, part, draws)
    labels = write_labels(tmp_path / "l.csv", files)
    fewer = Files(files.names, files.labels, files.scores[:, :2])
    two = join(read_predictions(write_wide(tmp_path / "p.csv", fewer, FINDINGS[:2])), labels)
    with pytest.raises(InvalidInput, match=r"findings .*1 only in --against \(Emphysema\)"):
        compare_cases(two, whole, draws)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=2, max_size=30).filter(
        lambda pairs: len({label for label, _ in pairs}) == 2
    ),
    st.sampled_from(["youden", "f1"]),
)
def test_no_threshold_is_better(pairs: list[tuple[int, int]], method: str) -> None:
    def worth(limit: float) -> Fraction:
        tp = sum(label and score / 9 >= limit for label, score in pairs)
        fp = sum(not label and score / 9 >= limit for label, score in pairs)
        has = sum(label for label, _ in pairs)
        if method == "youden":
            return Fraction(tp, has) - Fraction(fp, len(pairs) - has)
        return Fraction(2 * tp, has + tp + fp)

    labels = np.array([float(label) for label, _ in pairs])
    scores = np.array([score / 9 for _, score in pairs])
    found = best_threshold(labels, scores, method)
    others = {score / 9 for _, score in pairs}
    assert found in others
    best = max(worth(limit) for limit in others)
    assert found == max(limit for limit in others if worth(limit) == best)


def test_thresholds_say_what_they_were_fitted_on(tmp_path: Path) -> None:
    files = made(15)
    files.labels[:, 1] = 0
    predictions, cases = loaded(tmp_path, files)
    path = tmp_path / "t.json"
    points = fit(cases, "youden")
    assert set(points.thresholds) == {"Cardiomegaly", "Emphysema"}
    write(path, points, predictions, cases)
    assert read_thresholds(path).values == points.thresholds
    fitted_on = json.loads(path.read_text())["fitted_on"]
    assert fitted_on["predictions_sha256"] == predictions.sha256
    assert "valid" not in path.read_text()

    def shared(other: Files, group: str = "reconstruction") -> int | None:
        return read(path, *loaded(tmp_path, other, group)).shared

    scans = len({name.rpartition("_")[0] for name in files.names})
    assert shared(files) == shared(files, "scan") == shared(noisy(files, 0.1)) == scans
    other = made(16, split="train")
    assert shared(other) == 0
    one = Files(
        [*other.names, files.names[-1]], np.vstack([other.labels, files.labels[-1:]]),
        np.vstack([other.scores, files.scores[-1:]]),
    )  # fmt: skip
    assert shared(one) == 1
    path.write_text('{"kind": "ctclip-thresholds", "version": 1, "method": "mine", '
                    '"thresholds": {"Emphysema": 0.4}}')  # fmt: skip
    assert shared(files) is None
    two = Files(files.names, files.labels, files.scores[:, :2])
    fewer = read_predictions(write_long(tmp_path / "p.csv", two, FINDINGS[:2]))
    with pytest.raises(InvalidInput, match="Emphysema"):
        read(path, fewer, cases)


def test_thresholds_need_both_classes(tmp_path: Path) -> None:
    files = made(17)
    files.labels[:] = 1
    _, cases = loaded(tmp_path, files)
    with pytest.raises(InvalidInput, match="no finding has cases of both classes"):
        fit(cases, "f1")
