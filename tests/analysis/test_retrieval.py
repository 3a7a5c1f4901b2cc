"""`ctclip evaluate retrieval` against loops over single pairs, with ties, repeats and too few."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctclip_analysis.evaluate import retrieval
from ctclip_analysis.evaluate.retrieval import as_upstream, other_patients, own_ranks, recall
from ctclip_client.cli.program import main

from .embedding_files import unit, write_npz

Evaluate = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=range(6))
def drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Few numbers, so that cosines tie; repeated volumes; more than one chunk."""
    seed = int(request.param)
    print(f"seed {seed}")
    draw = np.random.default_rng(seed)
    monkeypatch.setattr(retrieval, "_CHUNK", 7)
    count = (3, 8, 20, 60, 61, 75)[seed]
    images = unit(draw.integers(-1, 2, (count, 4)) + np.array([0.0, 0.0, 0.0, 1.5]))
    images[count // 2] = images[0]
    labels = (draw.random((count, 3)) < 0.3).astype(np.float64)
    labels[0], labels[1] = 1, 0
    patients = [f"p{number}" for number in np.sort(draw.integers(0, count // 2, count))]
    own = draw.integers(0, count, 30)  # several texts of one volume, none of others
    texts = unit(images[own] + draw.integers(-1, 2, (30, 4)) * 0.5)
    return texts, images, own, labels, patients


def exact(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> list[list[float]]:
    """Cosines as the module compares them, one pair at a time."""
    return [
        [float(np.float32(sum(float(x) * float(y) for x, y in zip(a, b, strict=True))))
         for b in others]
        for a in vectors
    ]  # fmt: skip


def ordered(cosines: Sequence[float], among: Sequence[int]) -> list[int]:
    return sorted(among, key=lambda at: (-cosines[at], at))


def index_of(a: Sequence[float], b: Sequence[float]) -> float:
    both = sum(x == 1 and y == 1 for x, y in zip(a, b, strict=True))
    return both / sum(x == 1 or y == 1 for x, y in zip(a, b, strict=True))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_recall_is_that_of_a_loop(drawn: Any) -> None:
    texts, images, own, _, patients = drawn
    cosines = exact(texts, images)
    ranks = [
        ordered(row, range(len(images))).index(at) for row, at in zip(cosines, own, strict=True)
    ]
    assert own_ranks(texts, images, own).tolist() == ranks
    for found in recall(texts, images, own, [patients[at] for at in own]):
        if found.k > len(images):
            assert (found.figure, found.chance) == (None, None)
            continue
        assert found.figure is not None
        assert found.figure.value == pytest.approx(mean([rank < found.k for rank in ranks]))
        assert found.chance == pytest.approx(found.k / len(images))
        assert found.figure.low <= found.figure.value <= found.figure.high


def test_copies_of_a_volume_tie_wherever_they_stand() -> None:
    """Sums of 512 products in float32 may differ by the place in the matrix."""
    draw = np.random.default_rng(4)
    images = unit(draw.normal(size=(1001, 512)))
    copies = np.sort(draw.choice(1001, 200, replace=False))
    images[copies] = images[copies[0]]
    texts = np.repeat(unit(images[copies[:1]] + 0.01), 200, axis=0)
    assert own_ranks(texts, images, copies).tolist() == list(range(200))


def test_map_as_upstream_is_that_of_a_loop(drawn: Any) -> None:
    _, images, _, labels, _ = drawn
    sick = [at for at, row in enumerate(labels) if row.any()]
    cosines = exact(images, images)
    collected: list[float] = []  # never emptied
    found = as_upstream(images, labels)
    assert (found.queries, found.gallery) == (len(images), len(sick))
    for each in found.figures:
        if each.k > len(sick):
            assert each.figure is None
            continue
        for at, row in enumerate(cosines):
            best = ordered(row, sick)[: each.k]
            collected.append(mean([index_of(labels[at], labels[other]) for other in best]))
        assert each.figure is not None
        assert each.figure.value == pytest.approx(mean(collected))
        chance = [mean([index_of(row, labels[other]) for other in sick]) for row in labels]
        assert each.chance == pytest.approx(mean(chance))


def test_map_of_other_patients_is_that_of_a_loop(drawn: Any) -> None:
    _, images, _, labels, patients = drawn
    sick = [at for at, row in enumerate(labels) if row.any()]
    cosines = exact(images, images)
    allowed = {at: [o for o in sick if patients[o] != patients[at]] for at in sick}
    for each in other_patients(images, labels, patients).figures:
        if each.k > min(map(len, allowed.values())):
            assert each.figure is None
            continue
        values = [
            mean([index_of(labels[at], labels[o]) for o in ordered(cosines[at], among)[: each.k]])
            for at, among in allowed.items()
        ]
        assert each.figure is not None
        assert each.figure.value == pytest.approx(mean(values))
        assert each.figure.low <= each.figure.value <= each.figure.high
        chance = [mean([index_of(labels[at], labels[o]) for o in among])
                  for at, among in allowed.items()]  # fmt: skip
        assert each.chance == pytest.approx(mean(chance))


def test_nobody_has_a_finding() -> None:
    images, labels = unit(np.eye(4)), np.zeros((4, 2))
    for found in (as_upstream(images, labels), other_patients(images, labels, list("abcd"))):
        assert found.gallery == 0
        assert {each.figure for each in found.figures} == {None}


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    def run(images: Path, texts: Path, *options: object) -> tuple[int, str, str]:
        code = main(
            ["evaluate", "retrieval", "--images", str(images), "--texts", str(texts),
             *map(str, options)]
        )  # fmt: skip
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """130 volumes of 65 patients, texts in another order, labels of all but one."""
    draw = np.random.default_rng(2)
    names = [f"valid_{at // 2}_a_{at % 2 + 1}.nii.gz" for at in range(130)]
    vectors = draw.normal(size=(130, 16))
    order = list(range(130))
    random.Random(1).shuffle(order)
    images = write_npz(tmp_path / "images.npz", [f"/data/{name}" for name in names], vectors)
    near = vectors + draw.normal(0, 2, vectors.shape)
    texts = write_npz(
        tmp_path / "texts.npz", [*(names[at] for at in order[1:]), "valid_999_a_1.nii.gz"],
        near[[*order[1:], 0]], texts=True, release="r2", precision="bf16",
    )  # fmt: skip
    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="") as file:
        rows = [[name, *map(int, draw.random(3) < 0.4)] for name in names[1:]]
        csv.writer(file).writerows([["VolumeName", "A", "B", "C"], *rows])
    return images, texts, labels


def test_files_are_matched_by_name(evaluate: Evaluate, files: tuple[Path, Path, Path]) -> None:
    images, texts, labels = files
    code, out, err = evaluate(images, texts, "--labels", labels, "--json")
    assert code == 0
    said = json.loads(out)
    told = said["report_to_volume"]
    assert (told["reports"], told["volumes"]) == (129, 130)
    at_100 = told["recall"][-1]
    assert at_100["k"] == 100
    assert at_100["chance"] == pytest.approx(100 / 130)
    assert at_100["low"] > 100 / 130  # by another order of the texts it would be chance
    assert said["left_out"]["texts_without_volume"] == ["valid_999_a_1.nii.gz"]
    assert len(said["left_out"]["volumes_without_text"]) == 1
    assert said["left_out"]["volumes_without_labels"] == ["/data/valid_0_a_1.nii.gz"]
    assert "by release r1 (fp32), the texts by r2 (bf16), of one checkpoint" in err
    assert said["patients_told_by"] == "names as CT-RATE's"
    upstream, others = (
        said["volume_to_volume"][name] for name in ("as_upstream", "other_patients")
    )
    assert upstream["queries"] == 129
    assert others["queries"] == others["gallery"] == upstream["gallery"] < 129
    # A volume with a finding finds itself; others score 0.
    assert upstream["map"][0]["value"] == pytest.approx(upstream["gallery"] / 129)
    code, out, _ = evaluate(images, texts, "--labels", labels)
    assert code == 0
    assert "recall@100" in out
    assert "among other patients" in out


def test_a_column_tells_patients_of_recall_too(
    evaluate: Evaluate, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    images, texts, _ = files
    labels = tmp_path / "patients.csv"
    with labels.open("w", newline="") as file:
        names = [f"valid_{at // 2}_a_{at % 2 + 1}.nii.gz" for at in range(130)]
        rows = [[name, "a" if at < 65 else "b", 1] for at, name in enumerate(names)]
        csv.writer(file).writerows([["VolumeName", "patient", "A"], *rows])
    code, out, _ = evaluate(images, texts, "--labels", labels, "--json")
    said = json.loads(out)
    assert (code, said["patients_told_by"]) == (0, "column patient")
    at_50 = said["report_to_volume"]["recall"][2]
    # Half of the draws have one of the two patients alone: its recall is an end of the interval.
    assert any(
        at_50["low"] * (129 - high) + at_50["high"] * high == pytest.approx(at_50["value"] * 129)
        for high in (64, 65)
    )
    assert at_50["low"] < at_50["high"]
    lines = labels.read_text().splitlines(keepends=True)
    labels.write_text("".join(lines[:-4]))
    _, out, _ = evaluate(images, texts, "--labels", labels, "--json")
    told = "column patient, and by names for 4 volumes without a row"
    assert json.loads(out)["patients_told_by"] == told


def test_what_cannot_be_compared_is_refused(
    evaluate: Evaluate, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    images, texts, labels = files
    names = [f"valid_{at}_a_1.nii.gz" for at in range(3)]
    twice = write_npz(tmp_path / "c.npz", [*names, names[0]], np.ones((4, 16)), texts=True)
    unknown = tmp_path / "unknown.csv"
    unknown.write_text(labels.read_text().replace("\n", ",\n").replace("C,", "C,D", 1))
    others = tmp_path / "others.csv"
    others.write_text("VolumeName,A\nx,1\n")
    other = write_npz(
        tmp_path / "other.npz", names, np.ones((3, 16)), texts=True, checkpoint_sha256="cd" * 32
    )
    for wrong, message in (
        ((images, twice), f"c.npz, beside {images}: '/data/{names[0]}' may be about two"),
        ((images, texts, "--labels", unknown), "of none of the 129 volumes that it names is every"),
        ((images, texts, "--labels", others), "others.csv names none of the 130 scans"),
        ((images, other), "their vectors cannot be compared"),
        ((texts, texts), "holds embeddings of texts, expected images"),
        ((images, images), "holds embeddings of images, expected texts"),
        ((images, write_npz(tmp_path / "a.npz", list("123"), np.ones((3, 16)), texts=True)),
         "names none of the 130 scans"),
        ((images, write_npz(tmp_path / "b.npz", names, np.ones((3, 8)), texts=True)),
         "vectors of 8 numbers, --images of 16"),
    ):  # fmt: skip
        code, out, err = evaluate(*wrong)
        assert (code, out) == (2, "")
        assert message in err


def test_random_weights_are_told(
    evaluate: Evaluate, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    names = [f"valid_{at}_a_1.nii.gz" for at in range(4)]
    images = write_npz(tmp_path / "i.npz", names, np.eye(4), random_weights=True)
    texts = write_npz(tmp_path / "t.npz", names, np.eye(4), texts=True)
    code, out, err = evaluate(images, texts)
    assert code == 0
    assert "RANDOM WEIGHTS" in err
    assert "RANDOM WEIGHTS" in out
    assert "too few volumes" in out
