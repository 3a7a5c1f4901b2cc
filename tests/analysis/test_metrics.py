"""Figures and intervals against computations that share nothing with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ctclip_analysis.evaluate import plots
from ctclip_analysis.evaluate.calibration import calibrate
from ctclip_analysis.evaluate.cases import Cases, join
from ctclip_analysis.evaluate.metrics import TITLES, Scored, score
from ctclip_analysis.evaluate.operating_points import OperatingPoints
from ctclip_analysis.evaluate.resampling import Figure, areas, draw
from ctclip_analysis.evaluate.task_parity import compare
from ctclip_analysis.predictions import read_predictions

from .evaluation_files import FINDINGS, Files, made, write_labels, write_wide

Pairs = Sequence[tuple[float, float]]
"""(label, score) of each case; labels may be NaN."""
THRESHOLDS = {"Cardiomegaly": 0.45, "Lung nodule": 0.3}
NAN = float("nan")


def known(pairs: Pairs) -> tuple[list[float], list[float]]:
    return [s for y, s in pairs if y == 1], [s for y, s in pairs if y == 0]


def auroc_by_pairs(pairs: Pairs) -> float:
    has, has_not = known(pairs)
    if not has or not has_not:
        return NAN
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(has, has_not)]
    return sum(wins) / len(wins)


def ap_by_thresholds(pairs: Pairs) -> float:
    """The sum over distinct scores, downwards, of precision times the recall that is gained."""
    has, has_not = known(pairs)
    if not has or not has_not:
        return NAN
    total, before = 0.0, 0.0
    for limit in sorted({*has, *has_not}, reverse=True):
        hits = sum(s >= limit for s in has)
        recall = hits / len(has)
        total += (recall - before) * hits / (hits + sum(s >= limit for s in has_not))
        before = recall
    return total


def at(limit: float, pairs: Pairs) -> dict[str, float]:
    has, has_not = known(pairs)
    tp, fp = sum(s >= limit for s in has), sum(s >= limit for s in has_not)
    fn, tn = len(has) - tp, len(has_not) - fp
    return {
        "f1": 2 * tp / (2 * tp + fp + fn) if has else NAN,
        "precision": tp / (tp + fp) if tp + fp else NAN,
        "sensitivity": tp / (tp + fn) if has else NAN,
        "specificity": tn / (tn + fp) if has_not else NAN,
    }


def brier(pairs: Pairs) -> float:
    errors = [(s - y) ** 2 for y, s in pairs if not math.isnan(y)]
    return sum(errors) / len(errors) if errors else NAN


def by_hand(pairs: Pairs, limit: float | None) -> dict[str, float]:
    own = {} if limit is None else at(limit, pairs)
    return {"auroc": auroc_by_pairs(pairs), "average_precision": ap_by_thresholds(pairs), **own,
            "brier": brier(pairs)}  # fmt: skip


@pytest.fixture
def cases(tmp_path: Path) -> Callable[[Files], Cases]:
    def make(files: Files) -> Cases:
        predictions = read_predictions(write_wide(tmp_path / "p.csv", files))
        return join(predictions, write_labels(tmp_path / "l.csv", files))

    return make


def points() -> OperatingPoints:
    return OperatingPoints(THRESHOLDS, "youden", "a test", 0)


def assert_equal(figure: Figure, value: float, drawn: Sequence[float]) -> None:
    finite = sorted(each for each in drawn if math.isfinite(each))
    assert figure.left_out == len(drawn) - len(finite)
    assert figure.value == pytest.approx(value, nan_ok=True)
    if not math.isfinite(value) or len(finite) < len(drawn) / 2:
        assert math.isnan(figure.low)
        assert math.isnan(figure.high)
    else:
        low, high = np.percentile(finite, [2.5, 97.5])
        assert (figure.low, figure.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("patients", [4, 12])
def test_every_figure_and_interval_by_hand(patients: int, cases: Callable[[Files], Cases]) -> None:
    """Few patients, so that some draws are of one class; each round is done anew, case by case."""
    judged = cases(made(patients, patients))
    draws = draw(judged.patients.ids, rounds=60)
    scored = score(judged, draws, points())
    drawn: dict[str, list[list[float]]] = {name: [] for name in TITLES}
    for column, finding in enumerate(FINDINGS):
        rows = list(
            zip(judged.labels[:, column].tolist(), judged.probabilities[:, column].tolist(),
                strict=True)
        )  # fmt: skip
        limit = THRESHOLDS.get(finding)
        rounds = []
        for number in range(60):
            times = draws.times[:, number].astype(int)
            again = [pair for pair, n in zip(rows, times, strict=True) for _ in range(n)]
            rounds.append(by_hand(again, limit))
        found = scored.findings[column]
        assert found.finding == finding
        values = by_hand(rows, limit)
        assert list(found.figures) == list(values)
        for name, value in values.items():
            own = [each[name] for each in rounds]
            assert_equal(found.figures[name], value, own)
            if math.isfinite(value):
                drawn[name].append(own)
        assert found.cases == len([y for y, _ in rows if not math.isnan(y)])
        assert found.positives == len([y for y, _ in rows if y == 1])
        assert found.unknown == len(rows) - found.cases
    for name, figure in scored.macro.items():
        values = [each.figures[name].value for each in scored.findings if name in each.figures]
        mean = np.mean([value for value in values if math.isfinite(value)])
        assert_equal(figure, float(mean), np.mean(drawn[name], axis=0).tolist())


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 1.0, NAN]), st.integers(0, 5).map(lambda n: n / 5)),
        min_size=1, max_size=14,
    ),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_areas_of_any_cases(pairs: list[tuple[float, float]], seed: int) -> None:
    draws = draw([f"p{at // 2}" for at in range(len(pairs))], rounds=5, seed=seed)
    labels, scores = (np.array(side) for side in zip(*pairs, strict=True))
    auroc, precision = areas(labels, scores, draws)
    for number in range(5):
        times = draws.times[:, number].astype(int)
        again = [pair for pair, n in zip(pairs, times, strict=True) for _ in range(n)]
        assert auroc[number] == pytest.approx(auroc_by_pairs(again), nan_ok=True)
        assert precision[number] == pytest.approx(ap_by_thresholds(again), nan_ok=True)


def test_patients_are_drawn_whole() -> None:
    patients = ["b", "a", "b", "c", "a", "b"]
    draws = draw(patients, rounds=200)
    assert draws.patients == 3
    first = {name: draws.times[patients.index(name)] for name in "abc"}
    for row, name in enumerate(patients):
        np.testing.assert_array_equal(draws.times[row], first[name])
    np.testing.assert_array_equal(sum(first.values()), 3)
    assert 0.7 < np.mean(list(first.values())) < 1.3
    np.testing.assert_array_equal(draw(patients, rounds=200).times, draws.times)


def test_patients_widen_the_interval(cases: Callable[[Files], Cases]) -> None:
    """Cases of one patient are alike: taken for as many patients, they would feign certainty."""
    files = made(3, 40)
    again = Files(
        [f"{name[:-7]}{copy}.nii.gz" for copy in range(9) for name in files.names],
        np.tile(files.labels, (9, 1)), np.tile(files.scores, (9, 1)),
    )  # fmt: skip

    def width(judged: Cases, patients: Sequence[str]) -> float:
        figure = score(judged, draw(patients)).macro["auroc"]
        return figure.high - figure.low

    once, many = cases(files), cases(again)
    assert width(many, many.patients.ids) == pytest.approx(width(once, once.patients.ids), rel=0.2)
    assert width(many, many.names) < width(many, many.patients.ids) / 2


@pytest.mark.parametrize(("value", "why"), [(1.0, "every case has it"), (0.0, "no case has it")])
def test_one_class_only(value: float, why: str, cases: Callable[[Files], Cases]) -> None:
    files = made(5)
    files.labels[:, 1] = value
    judged = cases(files)
    scored = score(judged, draw(judged.patients.ids), points())
    figures = scored.findings[1].figures
    assert scored.findings[1].undefined == why
    missing = {"auroc", "average_precision", *(["specificity"] if value else ["f1", "sensitivity"])}
    assert {name for name, each in figures.items() if math.isnan(each.value)} == missing
    for name in missing:
        assert scored.left_out[name] == ("Lung nodule",)
    areas_left = [scored.findings[column].figures["auroc"].value for column in (0, 2)]
    assert scored.macro["auroc"].value == pytest.approx(np.mean(areas_left))
    assert math.isfinite(scored.macro["auroc"].low)


def test_no_label_known_and_nothing_above_the_threshold(cases: Callable[[Files], Cases]) -> None:
    files = made(6)
    files.labels[:, 2] = NAN
    files.scores[:, 0] = 0.1
    judged = cases(files)
    limits = replace(points(), thresholds={**THRESHOLDS, "Emphysema": 0.4})
    scored = score(judged, draw(judged.patients.ids), limits)
    first, _, last = scored.findings
    assert (first.undefined, last.undefined) == (
        "no probability reaches the threshold", "no label is known",
    )  # fmt: skip
    assert first.figures["f1"].value == 0
    assert math.isnan(first.figures["precision"].value)
    assert first.figures["auroc"].value == 0.5
    assert (last.cases, last.calibration.bins) == (0, ())
    assert list(last.figures) == list(TITLES)
    assert all(math.isnan(figure.value) for figure in last.figures.values())


def numbers_of(scored: Scored) -> dict[tuple[str, str, str], float]:
    return {
        (each.finding, name, field): number
        for each in scored.findings
        for name, figure in each.figures.items()
        for field, number in vars(figure).items()
    }


def test_the_order_of_rows_and_columns_changes_nothing(tmp_path: Path) -> None:
    files = made(7)
    predictions = write_wide(tmp_path / "p.csv", files)
    labels = write_labels(tmp_path / "l.csv", files)
    random = np.random.default_rng(7)
    rows = random.permutation(len(files.names))
    columns = [2, 0, 1]
    named = [FINDINGS[at] for at in columns]
    other = Files([files.names[row] for row in rows], files.labels[rows][:, columns],
                  files.scores[rows][:, columns])  # fmt: skip
    results = []
    for these, those in itertools.product(
        (predictions, write_wide(tmp_path / "p2.csv", other, named)),
        (labels, write_labels(tmp_path / "l2.csv", other, named)),
    ):
        judged = join(read_predictions(these), those)
        results.append(numbers_of(score(judged, draw(judged.patients.ids), points())))
    for result in results:  # sums of some processors differ in the last bit by the column's place
        assert result == pytest.approx(results[0], rel=1e-12)


def test_labels_of_the_wrong_rows_would_be_noticed(cases: Callable[[Files], Cases]) -> None:
    """That a join by position gives other figures, so that the test above can fail."""
    judged = cases(made(8))
    wrong = replace(judged, labels=np.roll(judged.labels, 1, axis=0))
    draws = draw(judged.patients.ids)
    right, swapped = (numbers_of(score(each, draws)) for each in (judged, wrong))
    assert swapped != pytest.approx(right, nan_ok=True)


def test_calibration_by_hand() -> None:
    scores = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 10)
    labels = np.concatenate([np.repeat([1.0, 0.0], [n, 10 - n]) for n in range(1, 11)])
    perfect = calibrate(labels, scores)
    assert [each.cases for each in perfect.bins] == [10] * 10
    assert perfect.ece == pytest.approx(0)
    worse = calibrate(labels, scores / 2)
    assert worse.ece == pytest.approx(np.mean(scores / 2))
    assert [each.predicted for each in worse.bins] == pytest.approx(np.arange(1, 11) / 20)
    assert [each.observed for each in worse.bins] == pytest.approx(np.arange(1, 11) / 10)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=60))
def test_bins_hold_every_case_once_and_keep_ties_together(pairs: list[tuple[bool, int]]) -> None:
    labels = np.array([float(label) for label, _ in pairs])
    scores = np.array([score / 10 for _, score in pairs])
    found = calibrate(labels, scores)
    assert sum(each.cases for each in found.bins) == len(pairs)
    assert len(found.bins) <= 10
    means = [each.predicted for each in found.bins]
    assert means == sorted(means)
    assert 0 <= found.ece <= 1
    total = sum(each.cases * each.observed for each in found.bins)
    assert total == pytest.approx(labels.sum())


def test_what_is_below_an_axis_is_within_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside long names the axis is short."""
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "_svg", drawn.append)
    labels, scores = np.array([[1.0], [0.0], [0.0]]), np.array([[0.9], [0.1], [0.2]])
    found = compare(["a long name " * 9], labels, scores, scores, draw(list("abc")))
    plots.differences(found)
    FigureCanvasAgg(drawn[0]).draw()
    box = drawn[0].axes[0].xaxis.label.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= drawn[0].bbox.width
