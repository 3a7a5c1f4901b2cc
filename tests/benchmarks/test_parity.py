"""`ctclip parity` passes what is sound, fails everything else by name, and keeps what it found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from ctclip_bench.parity import plan
from ctclip_bench.parity.inputs import changed_files, read_inputs
from ctclip_bench.parity.labelled import TASK
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.errors import InvalidInput
from ctclip_client.release.parity_runs import EXPORT, FILE, ParityRun, read_runs
from ctclip_export.parity.providers import missing_cuda
from ctclip_export.repository.build import Export
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..nobody import nobody_reads

ON_CUDA = "NOT RUN" if missing_cuda() else "PASS"
PATIENT = "SMITH_JOHN_19500101"
Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def scans(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans of a ward")
    for seed in range(2):
        shutil.copy(phantoms / f"ct{seed}.nii.gz", folder / f"{PATIENT}-{seed}.nii.gz")
    return folder


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Path:
    """A copy, because the check keeps its runs in it."""
    return Path(shutil.copytree(repository, tmp_path / "repository"))


@pytest.fixture(scope="module")
def bfloat(exported_in: Callable[[str], Export], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bfloat") / "repository"
    return Path(shutil.copytree(exported_in("bf16").repository, folder))


def command(repository: Path, scans: Path, *more: str) -> list[str]:
    return ["parity", "--repository", str(repository), "--scans", str(scans), "--json", *more]


def reference(golden: Golden) -> list[str]:
    return ["--against", str(golden.checkpoint), "--text-model", str(golden.text_model)]


def steps_of(printed: Printed) -> dict[str, dict[str, Any]]:
    return {step["rung"]: step for step in json.loads(printed.readouterr().out)["rungs"]}


def verdicts(steps: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: step["verdict"] for name, step in steps.items()}


def kept(repository: Path) -> list[ParityRun]:
    """The runs after the export's own check."""
    runs = read_runs(repository, 1)
    return [run for run in runs if [step.name for step in run.steps] != [EXPORT]]


# --- sound releases ---


@pytest.mark.slow
def test_a_sound_fp16_release_passes_every_step(
    exported_in: Callable[[str], Export],
    golden: Golden,
    scans: Path,
    tmp_path: Path,
    capsys: Printed,
) -> None:
    half = shutil.copytree(exported_in("fp16").repository, tmp_path / "repository")
    assert main(command(half, scans, *reference(golden))) == 0
    steps = steps_of(capsys)
    assert verdicts(steps) == {
        "files": "PASS",
        "PyTorch fp16": "PASS",
        "ONNX fp16, ONNX Runtime": "PASS",
        "ONNX fp16, OpenVINO": "PASS",
        "ONNX fp16, ONNX Runtime on CUDA": ON_CUDA,
        "TensorRT engine": "NOT RUN",
        "served by Triton": "PASS",
        "client, from a CT file": "PASS",
    }
    errors = {name: step["similarity_error"] for name, step in steps.items()}
    # A step that hides its tokens is held to the error of the one that runs the same in the open.
    assert errors["served by Triton"] == errors["ONNX fp16, ONNX Runtime"]
    assert errors["served by Triton"] != errors["ONNX fp16, OpenVINO"]
    (run,) = kept(half)
    assert (run.passed, run.reference, run.scans, run.sample) == (True, "PyTorch fp32", 2, False)
    assert {step.name: step.verdict for step in run.steps} == {
        name: step["verdict"] for name, step in steps.items() if name != "files"
    }


def test_without_a_checkpoint_the_graphs_are_the_baseline(
    own: Path, scans: Path, server: EmbeddedTriton, tmp_path: Path, capsys: Printed
) -> None:
    """With labels, a page, and a server of one's own."""
    page, labels = tmp_path / "report.html", tmp_path / "labels.csv"
    columns = ",".join(entry.finding for entry in PUBLISHED_FINDINGS)
    ones, zeros = (",".join([digit] * len(PUBLISHED_FINDINGS)) for digit in "10")
    first, second = sorted(path.name for path in scans.iterdir())
    labels.write_text(f"VolumeName,{columns}\n{first},{ones}\n{second},{zeros}\n")
    more = ("--report", str(page), "--labels", str(labels), "--url", server.grpc_url)
    assert main(command(own, scans, *more)) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["passed"], result["baseline"]) == (True, "ONNX fp32, ONNX Runtime")
    assert result["scans"] == [first, second]
    at = f" at {server.grpc_url}"
    assert {step["rung"]: step["verdict"] for step in result["rungs"]} == {
        "files": "PASS",
        "ONNX fp32, OpenVINO": "PASS",
        "ONNX fp32, ONNX Runtime on CUDA": ON_CUDA,
        "TensorRT engine": "NOT RUN",
        f"served by Triton{at}": "PASS",
        f"client, from a CT file{at}": "PASS",
        TASK: "PASS",
    }
    assert all(step["text_cosine"] > 0.9999 for step in result["rungs"] if step["text_cosine"])
    assert len(result["auroc"]) == len(PUBLISHED_FINDINGS)
    assert {(area["positives"], area["rung"]) for area in result["auroc"]} == {
        (1, f"client, from a CT file{at}")
    }
    task = result["task"]
    assert task["bars"] == {f"{bar:g}": task["ratio"] >= bar for bar in (0.999, 0.99)}
    served = [area["served"] for area in result["auroc"]]
    assert task["served"] == pytest.approx(sum(served) / len(served))
    for text in ("PASSED", second, f"AUROC of client, from a CT file{at}"):
        assert text in page.read_text()
    (run,) = kept(own)
    assert (run.release, run.passed) == (result["release"]["release"], True)
    assert (list(run.failures), run.engines) == ([], {})
    text = (own / "ctclip_check" / "1" / FILE).read_text()
    assert PATIENT not in text  # file names may name patients, addresses a hospital
    assert server.grpc_url not in text


@pytest.mark.slow
@pytest.mark.usefixtures("needs_bfloat16")
def test_bf16_is_judged_and_served_by_openvino(
    bfloat: Path, golden: Golden, scans: Path, capsys: Printed
) -> None:
    assert main(command(bfloat, scans, *reference(golden))) == 0
    steps = steps_of(capsys)
    assert verdicts(steps) == {
        "files": "PASS",
        "PyTorch bf16": "PASS",
        "ONNX bf16, ONNX Runtime": "NOT RUN",
        "ONNX bf16, OpenVINO": "PASS",
        "ONNX bf16, ONNX Runtime on CUDA": "NOT RUN",
        "TensorRT engine": "NOT RUN",
        "served by Triton (openvino)": "PASS",
        "client, from a CT file (openvino)": "PASS",
    }
    assert "no bf16 kernels" in steps["ONNX bf16, ONNX Runtime"]["reason"]
    # It did compute in bfloat16: float32 would be a thousand times closer.
    assert 1 - steps["ONNX bf16, OpenVINO"]["cosine"] > 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("needs_bfloat16")
def test_bf16_in_onnx_runtime_is_refused_with_the_way_out(bfloat: Path) -> None:
    with pytest.raises(InvalidInput, match="implementation for") as caught, EmbeddedTriton(bfloat):
        pass
    assert "--config-name openvino" in caught.value.remedy


# --- steps that cannot run ---


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise InvalidInput("openvino: this CPU has no bfloat16 arithmetic.")

    monkeypatch.setattr(plan, "require_bfloat16", refuse)


@pytest.mark.slow
@pytest.mark.usefixtures("no_bfloat16")
def test_a_cpu_without_bfloat16_runs_no_bf16_step(
    bfloat: Path, golden: Golden, scans: Path, capsys: Printed
) -> None:
    assert main(command(bfloat, scans, *reference(golden))) == 0
    assert list(verdicts(steps_of(capsys)).values()) == ["PASS", "PASS", *["NOT RUN"] * 6]


@pytest.mark.usefixtures("no_bfloat16")
def test_where_nothing_can_be_compared_nothing_is_kept(
    bfloat: Path, scans: Path, capsys: Printed
) -> None:
    """And it is no pass, and no traceback."""
    before = kept(bfloat)
    assert main(command(bfloat, scans)) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert [step["verdict"] for step in result["rungs"]] == ["PASS", *["NOT RUN"] * 6]
    assert (result["passed"], result["baseline"]) == (False, "nothing")
    assert "nothing could be compared on this machine" in printed.err
    assert kept(bfloat) == before
    with nobody_reads():  # which changes no verdict
        assert main(["parity", "--repository", str(bfloat), "--scans", str(scans)]) == 1


# --- what is wrong fails by name ---


def test_a_swapped_weight_fails_in_every_step(
    own: Path, golden: Golden, scans: Path, capsys: Printed
) -> None:
    path = own / "ctclip_vision" / "1" / "model.onnx"
    proto = onnx.load(path)
    weight = next(
        i
        for i in proto.graph.initializer
        if i.name == "encoder.temporal.blocks.1.token_conv.conv.bias"
    )
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), weight.name))
    onnx.save(proto, path)
    assert main(command(own, scans, *reference(golden))) == 1
    steps = steps_of(capsys)
    said = verdicts(steps)
    assert said.pop("TensorRT engine") == "NOT RUN"
    if missing_cuda():
        assert said.pop("ONNX fp32, ONNX Runtime on CUDA") == "NOT RUN"
    assert set(said.values()) == {"FAIL"}
    assert steps["files"]["reason"].startswith(
        "ctclip_vision: model.onnx is not the file that prov"
    )
    (run,) = kept(own)
    assert run.passed is False
    assert [failure.partition(":")[0] for failure in run.failures] == list(said)


def test_a_graph_that_no_record_describes_fails_by_name(own: Path) -> None:
    folder = own / "ctclip_preprocess"
    inputs = read_inputs(own, [], None, None)
    assert changed_files(inputs) == ""
    record = json.loads((folder / "1/provenance.json").read_text())
    del record["further_files"]
    (folder / "1/provenance.json").write_text(json.dumps(record))
    unrecorded = "ctclip_preprocess: provenance.json does not describe model_gpu.onnx"
    assert changed_files(inputs).startswith(unrecorded)
    (folder / "1/model_gpu.onnx").unlink()
    assert "gpu.pbtxt loads model_gpu.onnx, which is missing" in changed_files(inputs)


def test_a_swapped_vocabulary_fails_by_name(own: Path, scans: Path, capsys: Printed) -> None:
    """The server does not start. A graph that cannot be read is no verdict: `test_bad_input`."""
    path = own / "ctclip_tokenizer" / "1" / "vocab.txt"
    words = path.read_text().splitlines()
    path.write_text("\n".join([*words[:-2], words[-1], words[-2]]) + "\n")
    assert main(command(own, scans)) == 1
    steps = steps_of(capsys)
    assert "ctclip_tokenizer: vocab.txt is not the file" in steps["files"]["reason"]
    for name in ("served by Triton", "client, from a CT file"):
        assert steps[name]["verdict"] == "FAIL"
        assert "ctclip_tokenizer" in steps[name]["reason"]
    assert [run.passed for run in kept(own)] == [False]
