"""The ladder must pass what is sound and fail everything else, by name."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ctclip_bench.parity.labels import auroc, compare_auroc, read_labels
from ctclip_bench.parity.process import run_rung
from ctclip_bench.parity.steps import Answer, Job
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.errors import InvalidInput
from ctclip_client.release.parity_runs import read_runs
from ctclip_export.parity.judge import BOUNDS, Bounds, Reading, judge, spearman
from ctclip_export.repository.build import Export
from ctclip_export.samples.scans import Scan
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden

ERROR = 1e-3
LOOSE = Bounds(codes=0.5, cosine=0.9, probability=0.1)


def reading(**changes: NDArray[np.generic]) -> Reading:
    codes = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    base = Reading(
        codes=codes,
        image_embedding=np.eye(8, dtype=np.float32)[0],
        logits=np.zeros((3, 2), np.float32),
        probabilities=np.array([0.2, 0.5, 0.9], np.float32),
        margins=np.linspace(1e-4, 0.1, 24, dtype=np.float32).reshape(codes.shape),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def flipped(index: tuple[int, int, int]) -> NDArray[np.int32]:
    codes = reading().codes
    assert codes is not None
    codes = codes.copy()
    codes[index] += 100
    return codes


def test_the_same_passes() -> None:
    verdict = judge("rung", [reading()], [reading()], BOUNDS["fp32"], 0.0)
    assert (verdict.verdict, verdict.codes_agree, verdict.cosine) == ("PASS", 1.0, 1.0)


def test_a_flip_is_forgiven_only_where_the_reference_hesitated() -> None:
    tie, sure = reading(codes=flipped((0, 0, 0))), reading(codes=flipped((1, 2, 3)))
    assert judge("rung", [tie], [reading()], LOOSE, ERROR).verdict == "PASS"
    assert judge("rung", [tie], [reading()], LOOSE, 1e-6).verdict == "FAIL"
    verdict = judge("rung", [sure], [reading()], LOOSE, ERROR)
    assert verdict.verdict == "FAIL"
    assert "reference's margin is 1.0e-01" in verdict.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_embedding": np.eye(8, dtype=np.float32)[1]}, "cosine 0.000000"),
        ({"probabilities": np.array([0.2, 0.5, 0.7], np.float32)}, "|Δprobability| 2.0e-01"),
        ({"probabilities": np.array([0.2, np.nan, 0.9], np.float32)}, "NaN or infinite"),
        ({"logits": np.full((3, 2), np.inf, np.float32)}, "logits: NaN or infinite"),
        ({"logits": np.zeros((2, 2), np.float32)}, "logits: shape (2, 2), expected (3, 2)"),
        ({"codes": np.zeros((2, 3, 4), np.int64)}, "codes: int64, expected int32"),
        ({"codes": np.zeros((2, 3, 4), np.int32)}, "codes agree"),
        ({"image_embedding": np.zeros(8, np.float32)}, "cosine nan"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_every_other_difference_fails(changes: dict[str, NDArray[np.generic]], reason: str) -> None:
    verdict = judge("rung", [reading(), reading(**changes)], [reading()] * 2, LOOSE, 1.0)
    assert verdict.verdict == "FAIL"
    assert reason in verdict.reason


@pytest.mark.parametrize(("answers", "scans"), [(0, 0), (0, 1), (1, 2)])
def test_nothing_and_too_little_fail(answers: int, scans: int) -> None:
    verdict = judge("rung", [reading()] * answers, [reading()] * scans, LOOSE, ERROR)
    assert verdict.verdict == "FAIL"


def test_spearman() -> None:
    a = np.array([0.1, 0.4, 0.2, 0.9], np.float32)
    assert spearman(a, a) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    # 1 − 6·Σd²/(n(n²−1)) with ranks 1 3 2 4 against 1 2 3 4
    assert spearman(a, np.array([1, 2, 3, 4], np.float32)) == pytest.approx(1 - 6 * 2 / 60)


# --- processes: what must never look like a pass ---


def _kill_itself(job: Job, emit: Callable[[Answer], None]) -> None:
    emit({"codes": np.zeros(3)})
    os.kill(os.getpid(), signal.SIGKILL)


def _too_little(job: Job, emit: Callable[[Answer], None]) -> None:
    emit({"codes": np.zeros(3)})


def _raises(job: Job, emit: Callable[[Answer], None]) -> None:
    raise ZeroDivisionError("by design")


def _exits(job: Job, emit: Callable[[Answer], None]) -> None:
    os._exit(7)


def _good(job: Job, emit: Callable[[Answer], None]) -> None:
    for scan in job.scans:
        emit({"codes": np.full(2, scan.seed)})


@pytest.fixture
def two_scans(golden: Golden, repository: Path) -> Job:
    scans = (Scan(Path("a"), 1), Scan(Path("a"), 2))
    return Job(repository, "1", "", golden.geometry, "fp32", PUBLISHED_FINDINGS, scans, None, None)


@pytest.mark.parametrize(
    ("rung", "failure"),
    [
        (_kill_itself, "killed by SIGKILL"),
        (_too_little, "1 answers for 2 scans"),
        (_raises, "ZeroDivisionError: by design"),
        (_exits, "exit code 7"),
    ],
)
def test_rungs_that_die_have_failed(
    rung: Callable[[Job, Callable[[Answer], None]], None],
    failure: str,
    two_scans: Job,
    tmp_path: Path,
) -> None:
    outcome = run_rung(rung, two_scans, tmp_path / "rung")
    assert failure in outcome.failure
    assert outcome.answers == ()


def test_answers_come_in_order(two_scans: Job, tmp_path: Path) -> None:
    outcome = run_rung(_good, two_scans, tmp_path / "rung")
    assert outcome.failure == ""
    assert [answer["codes"].tolist() for answer in outcome.answers] == [[1, 1], [2, 2]]


# --- the whole ladder on the golden model ---


@pytest.fixture(scope="module")
def scans(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(2):
        shutil.copy(phantoms / f"ct{seed}.nii.gz", folder / f"scan{seed}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def half(exported_in: Callable[[str], Export], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because the ladder writes its verdict into it."""
    folder = tmp_path_factory.mktemp("half") / "repository"
    return Path(shutil.copytree(exported_in("fp16").repository, folder))


@pytest.fixture(scope="module")
def bfloat(exported_in: Callable[[str], Export], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, too."""
    folder = tmp_path_factory.mktemp("bfloat") / "repository"
    return Path(shutil.copytree(exported_in("bf16").repository, folder))


def climb(
    repository: Path, golden: Golden, scans: Path, *more: str, reference: bool = True
) -> list[str]:
    against = ["--against", str(golden.checkpoint), "--text-model", str(golden.text_model)]
    flags = ["parity", "--repository", str(repository), "--scans", str(scans), "--json", *more]
    return flags + against if reference else flags


def test_a_sound_fp16_repository_passes(
    half: Path, golden: Golden, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    labels = tmp_path / "labels.csv"
    columns = ",".join(entry.finding for entry in PUBLISHED_FINDINGS)
    ones, zeros = (",".join([digit] * len(PUBLISHED_FINDINGS)) for digit in "10")
    labels.write_text(f"VolumeName,{columns}\nscan0.nii.gz,{ones}\nscan1.nii.gz,{zeros}\n")
    more = ("--report", str(page), "--labels", str(labels))
    assert main(climb(half, golden, scans, *more)) == 0
    result = json.loads(capsys.readouterr().out)
    verdicts = {rung["rung"]: rung["verdict"] for rung in result["rungs"]}
    assert verdicts == {
        "files": "PASS",
        "PyTorch fp16": "PASS",
        "ONNX fp16, ONNX Runtime": "PASS",
        "ONNX fp16, OpenVINO": "PASS",
        "TensorRT engine": "NOT RUN",
        "served by Triton": "PASS",
        "client, from a CT file": "PASS",
    }
    errors = {rung["rung"]: rung["similarity_error"] for rung in result["rungs"]}
    # A rung that hides its tokens is held to the error of the one that runs the same in the open.
    assert errors["served by Triton"] == errors["ONNX fp16, ONNX Runtime"]
    assert errors["served by Triton"] != errors["ONNX fp16, OpenVINO"]
    assert result["passed"] is True
    assert len(result["auroc"]) == len(PUBLISHED_FINDINGS)
    assert {area["positives"] for area in result["auroc"]} == {1}
    text = page.read_text()
    assert "PASSED" in text
    assert "scan1.nii.gz" in text


@pytest.mark.usefixtures("needs_bfloat16")
def test_bf16_is_judged_and_served_by_openvino(
    bfloat: Path, golden: Golden, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(climb(bfloat, golden, scans)) == 0
    rungs = {rung["rung"]: rung for rung in json.loads(capsys.readouterr().out)["rungs"]}
    assert {name: rung["verdict"] for name, rung in rungs.items()} == {
        "files": "PASS",
        "PyTorch bf16": "PASS",
        "ONNX bf16, ONNX Runtime": "NOT RUN",
        "ONNX bf16, OpenVINO": "PASS",
        "TensorRT engine": "NOT RUN",
        "served by Triton (openvino)": "PASS",
        "client, from a CT file (openvino)": "PASS",
    }
    assert "no bf16 kernels" in rungs["ONNX bf16, ONNX Runtime"]["reason"]
    # It did compute in bfloat16: float32 would be a thousand times closer.
    assert 1 - rungs["ONNX bf16, OpenVINO"]["cosine"] > 1e-5


def test_a_cpu_without_bfloat16_runs_no_bf16_rung(
    bfloat: Path,
    golden: Golden,
    scans: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse() -> None:
        raise InvalidInput("openvino: this CPU has no bfloat16 arithmetic.")

    monkeypatch.setattr("ctclip_bench.parity.run.require_bfloat16", refuse)
    assert main(climb(bfloat, golden, scans)) == 0
    rungs = json.loads(capsys.readouterr().out)["rungs"]
    assert [rung["verdict"] for rung in rungs] == ["PASS", "PASS", *["NOT RUN"] * 5]


@pytest.mark.usefixtures("needs_bfloat16")
def test_bf16_in_onnx_runtime_is_refused_with_the_way_out(bfloat: Path) -> None:
    with pytest.raises(InvalidInput, match="implementation for") as caught, EmbeddedTriton(bfloat):
        pass
    assert "--config-name openvino" in caught.value.remedy


def test_a_swapped_weight_fails_on_every_rung_above(
    repository: Path,
    golden: Golden,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoiled = Path(shutil.copytree(repository, tmp_path / "repository"))
    path = spoiled / "ctclip_vision" / "1" / "model.onnx"
    proto = onnx.load(path)
    weight = next(
        i for i in proto.graph.initializer if i.name == "temporal.blocks.1.token_conv.conv.bias"
    )
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), weight.name))
    onnx.save(proto, path)
    assert main(climb(spoiled, golden, scans)) == 1
    result = json.loads(capsys.readouterr().out)
    verdicts = {rung["rung"]: rung["verdict"] for rung in result["rungs"]}
    assert verdicts.pop("TensorRT engine") == "NOT RUN"
    assert set(verdicts.values()) == {"FAIL"}
    assert len(verdicts) == 5
    reasons = {rung["rung"]: rung["reason"] for rung in result["rungs"]}
    assert reasons["files"].startswith("ctclip_vision: model.onnx is not the file that prov")
    run = read_runs(spoiled, 1)[-1]
    assert run.passed is False
    assert [failure.partition(":")[0] for failure in run.failures] == list(verdicts)


def test_without_a_checkpoint_the_graphs_are_the_baseline(
    repository: Path,
    golden: Golden,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = Path(shutil.copytree(repository, tmp_path / "repository"))
    assert main(climb(own, golden, scans, reference=False)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["baseline"] == "ONNX fp32, ONNX Runtime"
    export, run = read_runs(own, 1)
    assert (export.passed, [step.name for step in export.steps]) == (True, ["export"])
    assert (run.passed, run.failures, run.engines, run.scans) == (True, (), {}, 2)
    assert "scan0" not in str(run)  # file names may name patients
    assert {rung["rung"]: rung["verdict"] for rung in result["rungs"]} == {
        "files": "PASS",
        "ONNX fp32, OpenVINO": "PASS",
        "TensorRT engine": "NOT RUN",
        "served by Triton": "PASS",
        "client, from a CT file": "PASS",
    }
    assert all(rung["text_cosine"] > 0.9999 for rung in result["rungs"] if rung["text_cosine"])


def test_another_checkpoint_is_refused(
    repository: Path, golden: Golden, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = climb(repository, golden, scans, reference=False)
    other = ["--against", str(golden.folder / "ct_lipro.pt")]
    assert main([*flags, *other, "--text-model", str(golden.text_model)]) == 2
    assert "is not the checkpoint this repository was exported from" in capsys.readouterr().err


def test_another_vocabulary_of_the_same_size_is_refused(
    repository: Path,
    golden: Golden,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = Path(shutil.copytree(golden.text_model, tmp_path / "text_model"))
    words = (other / "vocab.txt").read_text().splitlines()
    words[-1], words[-2] = words[-2], words[-1]
    (other / "vocab.txt").write_text("\n".join(words) + "\n")
    flags = climb(repository, golden, scans, reference=False)
    against = ["--against", str(golden.checkpoint), "--text-model", str(other)]
    assert main([*flags, *against]) == 2
    assert "is not the vocabulary this repository was exported with" in capsys.readouterr().err


def test_a_swapped_vocabulary_in_the_repository_fails_by_name(
    repository: Path,
    golden: Golden,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoiled = Path(shutil.copytree(repository, tmp_path / "repository"))
    path = spoiled / "ctclip_tokenizer" / "1" / "vocab.txt"
    words = path.read_text().splitlines()
    path.write_text("\n".join([*words[:-2], words[-1], words[-2]]) + "\n")
    assert main(climb(spoiled, golden, scans)) == 1
    rungs = {rung["rung"]: rung for rung in json.loads(capsys.readouterr().out)["rungs"]}
    assert "ctclip_tokenizer: vocab.txt is not the file" in rungs["files"]["reason"]
    assert rungs["served by Triton"]["verdict"] == "FAIL"
    assert "ctclip_tokenizer" in rungs["served by Triton"]["reason"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--scans", "/nowhere"], "is not a folder"),
        (["--against", "x.pt"], "go together"),
        (["--labels", "/nowhere.csv"], "nowhere.csv"),
        (["--report", "/nowhere/x.html"], "no folder"),
        (["--repository", "/nowhere"], "is not a folder"),
    ],
)
def test_usage(
    more: list[str],
    message: str,
    repository: Path,
    golden: Golden,
    scans: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*climb(repository, golden, scans, reference=False), *more]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_a_report_replaces_no_pipe(
    repository: Path,
    golden: Golden,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Said before the climb, not after it."""
    os.mkfifo(tmp_path / "page.html")
    flags = [*climb(repository, golden, scans), "--report", str(tmp_path / "page.html")]
    assert main(flags) == 2
    assert "a pipe (FIFO) is there" in capsys.readouterr().err
    assert (tmp_path / "page.html").is_fifo()


# --- labels ---


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
