"""`ctclip fit-head`: which scans and classes are fitted, and that its figures are honest."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ctclip_analysis.heads.fit import FOLDS, INNER_FOLDS, Sample, _folds, fit_class
from ctclip_client.cli.program import main
from ctclip_client.release.linear_head import read_linear_head

from .embedding_files import unit, write_npz

PATIENTS, SCANS, SIZE = 60, 130, 12
Fit = Callable[..., tuple[int, str, str]]


def write_labels(path: Path, names: list[str], columns: dict[str, list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = zip(names, *columns.values(), strict=True)
        csv.writer(file).writerows([["VolumeName", *columns], *rows])
    return path


@pytest.fixture
def drawn() -> tuple[list[str], NDArray[np.float32], dict[str, list[Any]]]:
    """Names like CT-RATE's, vectors, and labels: one that they tell, one that they do not."""
    draw = np.random.default_rng(3)
    patients = np.sort(draw.integers(0, PATIENTS, SCANS))
    names = [f"train_{patient}_a_{at}.nii.gz" for at, patient in enumerate(patients)]
    vectors = unit(draw.normal(size=(SCANS, SIZE)) + 2)
    told = (vectors[:, 0] > np.median(vectors[:, 0])).astype(int).tolist()
    chance = draw.integers(0, 2, SCANS).tolist()
    return names, vectors, {"Told": told, "Chance, alone": chance}


@pytest.fixture
def fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fit:
    def run(embeddings: Path, labels: Path, *options: object) -> tuple[int, str, str]:
        code = main(
            ["fit-head", "--embeddings", str(embeddings), "--labels", str(labels),
             "--out", str(tmp_path / "head.json"), *map(str, options)]
        )  # fmt: skip
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_head_is_scikit_learns_logistic_regression(fit: Fit, drawn: Any, tmp_path: Path) -> None:
    names, vectors, columns = drawn
    columns["Told"][5] = ""  # nobody knows
    columns["Told"][6] = -1
    scans = write_npz(tmp_path / "scans.npz", [f"/data/{name}" for name in names], vectors)
    labels = write_labels(
        tmp_path / "labels.csv", [*names[1:], "train_999_a_1.nii.gz"],
        {name: [*cells[1:], 1] for name, cells in columns.items()},
    )  # fmt: skip
    code, out, err = fit(scans, labels, "--json")
    assert code == 0
    assert f"no row of the labels is about /data/{names[0]}: left out" in err
    assert "there is no embedding of train_999_a_1.nii.gz: left out" in err
    assert "scans without a label for Told, left out of it: 2" in err
    said = json.loads(out)
    assert said["scans_without_labels"] == [f"/data/{names[0]}"]
    head = read_linear_head(tmp_path / "head.json")
    assert head.classes == ("Told", "Chance, alone")
    assert head.trained_on.scans == SCANS - 1
    assert head.trained_on.geometry == "240x480x480 at 1.5,0.75,0.75 mm"
    assert said["float32_difference"] < 1e-5
    for index, (name, cells) in enumerate(columns.items()):
        known = [at for at in range(1, SCANS) if cells[at] in (0, 1)]
        told = said["classes"][index]
        counts = (len(known), sum(cells[at] for at in known))
        assert (told["name"], told["scans"], told["positives"]) == (name, *counts)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=told["strength"]))
        model.fit(vectors[known].astype(np.float64), [cells[at] for at in known])
        expected = model.predict_proba(vectors.astype(np.float64))[:, 1]
        logits = (vectors - np.array(head.mean)) @ np.array(head.weight[index]) + head.bias[index]
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, rtol=0, atol=1e-4)
    assert said["classes"][0]["auroc"] > 0.9
    before = (tmp_path / "head.json").read_bytes()
    assert fit(scans, labels)[0] == 0
    assert (tmp_path / "head.json").read_bytes() == before  # the same for the same seed


def test_patients_are_counted_among_the_scans_that_are_fitted(
    fit: Fit, drawn: Any, tmp_path: Path
) -> None:
    names, vectors, columns = drawn
    names = ["odd.nii", *names[1:]]
    scans = write_npz(tmp_path / "scans.npz", names, vectors)
    more = {name: [*cells, 1, 0] for name, cells in columns.items()}
    labels = write_labels(tmp_path / "labels.csv", [*names, "other1.nii", "other2.nii"], more)
    code, _, err = fit(scans, labels, "--classes", "Told")
    assert code == 0
    assert "told by names as CT-RATE's; scans whose names do not, each counted as one: 1" in err


def test_no_patient_is_on_both_sides_and_each_side_has_both_kinds(drawn: Any) -> None:
    _, vectors, _ = drawn
    for seed in range(5):
        draw = np.random.default_rng(seed)
        patients = draw.integers(0, PATIENTS, SCANS)
        # As few patients with the class as may be, and scans without it among theirs.
        chosen = np.isin(patients, draw.choice(np.unique(patients), 10, replace=False))
        first = np.unique(patients, return_index=True)[1]
        present = chosen & (np.isin(np.arange(SCANS), first) | (draw.random(SCANS) < 0.3))
        sample = Sample(vectors.astype(np.float64), present, patients)
        tested = []
        for train, test in _folds(sample, FOLDS, seed):
            parts = [(train, test)]
            inner = sample.at(train)
            parts += [(train[a], train[b]) for a, b in _folds(inner, INNER_FOLDS, seed)]
            for one, other in parts:
                assert not set(patients[one]) & set(patients[other]), f"seed {seed}"
                assert all(len(np.unique(present[side])) == 2 for side in (one, other))
            tested += test.tolist()
        assert sorted(tested) == list(range(SCANS))


def test_chance_is_told_as_chance() -> None:
    """Labels that the vectors cannot tell, of patients who have several scans each: a fit that has
    seen the patients of the fold, or the fold itself, knows them by heart."""
    draw = np.random.default_rng(11)
    patients = np.repeat(np.arange(40), 5)
    own = draw.normal(size=(40, 64))  # all scans of a patient look alike, and have one label
    vectors = unit(own[patients] + draw.normal(0, 0.01, (200, 64))).astype(np.float64)
    present = (draw.permutation(40) < 20)[patients]
    found = fit_class(Sample(vectors, present, patients), seed=0)
    assert found.auroc < 0.7
    logits = vectors @ found.weight + found.bias
    assert (logits[present][:, None] > logits[~present]).mean() > 0.95  # on those it has seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"release": ["r1", *["r2"] * (SCANS - 1)]}, "holds embeddings of 2 releases (r1, r2)"),
        ({"checkpoint_sha256": None}, "does not say by which checkpoint it was made"),
        ({"key": "1"}, "holds embeddings of texts, expected images"),
        ({"checkpoint": "a\u202eb.pt"}, "checkpoint: got 'a\\u202eb.pt', expected a text of 1"),
    ],
)
def test_embeddings_of_unclear_origin_are_refused(
    change: dict[str, Any], message: str, fit: Fit, drawn: Any, tmp_path: Path
) -> None:
    names, vectors, columns = drawn
    scans = write_npz(tmp_path / "scans.npz", names, vectors, **change)
    code, _, err = fit(scans, write_labels(tmp_path / "labels.csv", names, columns))
    assert code == 2
    assert message in err
    assert not (tmp_path / "head.json").exists()


def test_what_cannot_be_fitted_is_refused_by_name(fit: Fit, drawn: Any, tmp_path: Path) -> None:
    names, vectors, columns = drawn
    rare = [int(at < 3) for at in range(SCANS)]
    scans = write_npz(tmp_path / "scans.npz", names, vectors, random_weights=True)
    labels = write_labels(tmp_path / "labels.csv", names, {**columns, "Rare": rare})
    code, _, err = fit(scans, labels)
    assert code == 2
    assert "too few of: Rare (" in err
    assert "--classes Told 'Chance, alone'" in err  # to be pasted
    code, out, err = fit(scans, labels, "--classes", "Told")
    assert code == 0
    assert "RANDOM WEIGHTS" in err
    assert "RANDOM WEIGHTS" in out
    assert read_linear_head(tmp_path / "head.json").classes == ("Told",)
    code, _, err = fit(scans, labels, "--classes", "Tumour")
    assert (code, "has no column 'Tumour'" in err) == (2, True)
    other = write_labels(tmp_path / "other.csv", [f"x{n}" for n in names], columns)
    code, _, err = fit(scans, other)
    assert (code, "names none of the 130 scans" in err) == (2, True)
    code, _, err = fit(scans, write_labels(tmp_path / "none.csv", names, {"patient": names}))
    assert (code, "has no column of a class" in err) == (2, True)
    for name in ("", "a\nb", "a\u202eb", "a" * 201):
        code, _, err = fit(scans, write_labels(tmp_path / "odd.csv", names, {name: rare}))
        assert (code, "expected a name of 1 to 200 printable" in err) == (2, True)
    code, _, err = fit(scans, labels, "--seed", -1)
    assert (code, "--seed: got -1" in err) == (2, True)


def test_damaged_files_are_refused(fit: Fit, drawn: Any, tmp_path: Path) -> None:
    names, vectors, columns = drawn
    labels = write_labels(tmp_path / "labels.csv", names, columns)
    good = write_npz(tmp_path / "scans.npz", names, vectors)
    with np.load(good) as arrays:
        content = dict(arrays)

    def refused(path: Path) -> str:
        code, _, err = fit(path, labels)
        assert code == 2
        return err

    for change, message in (
        ({"embedding": content["embedding"] * 2}, "has length 2, expected 1"),
        ({"embedding": np.full((SCANS, SIZE), np.nan, np.float32)}, "has length nan"),
        ({"embedding": content["embedding"][1:]}, f"[129, 12] for {SCANS} names"),
        ({"path": np.array([{"a": 1}] * SCANS, object)}, "Object arrays cannot be loaded"),
    ):
        np.savez(tmp_path / "bad.npz", **(content | change))
        assert message in refused(tmp_path / "bad.npz")
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:999])
    assert "no embeddings that can be read" in refused(tmp_path / "cut.npz")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    assert "no embeddings that can be read" in refused(tmp_path / "cut.parquet")
    (tmp_path / "alone.jsonl").write_text(
        '{"path": "a", "embedding_row": 0, "embedding_size": 2}\n'
    )
    assert "alone.jsonl.f32" in refused(tmp_path / "alone.jsonl")
    (tmp_path / "alone.jsonl").write_text(
        '{"path": "a", "embedding_row": -1, "embedding_size": 2}\n'
    )
    (tmp_path / "alone.jsonl.f32").write_bytes(np.ones(2, "<f4").tobytes())
    assert "embedding_row: got -1" in refused(tmp_path / "alone.jsonl")
    assert "its name says no format" in refused(labels)
    assert "No such file" in refused(tmp_path / "none.npz")
