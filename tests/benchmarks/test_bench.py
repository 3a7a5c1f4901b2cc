"""`ctclip bench` against a real Triton: the verdict comes first, and decides."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ctclip_bench.load.agreement import JudgedAnswers
from ctclip_bench.load.figures import make_level
from ctclip_bench.load.load import Sample
from ctclip_bench.load.measure import Measurement
from ctclip_client.cli.program import main
from ctclip_client.release.digest import sha256
from ctclip_export.parity.judge import BOUNDS, StepVerdict
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..nifti_files import save_volume
from ..nobody import nobody_reads

NAME = "patient-0815.nii.gz"
FEW = ("--requests", "3", "--warmup", "1")
LITTLE = ("--concurrency", "1", "--batch", "0", "--texts", "0", *FEW)


@pytest.fixture(scope="module")
def scans(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    save_volume(folder / NAME, chest_phantom(golden.geometry, 5))
    return folder


def spoil_findings(repository: Path, *, record: bool) -> None:
    """Swap the sentences of the findings model; with `record`, claim that it was always so."""
    path = repository / "ctclip_findings" / "1" / "model.onnx"
    proto = onnx.load(path)
    bank = max(proto.graph.initializer, key=lambda i: len(i.raw_data))
    values = onnx.numpy_helper.to_array(bank)
    bank.CopyFrom(onnx.numpy_helper.from_array(values[::-1, ::-1].copy(), bank.name))
    onnx.save(proto, path)
    if record:
        file = path.parent / "provenance.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"file_sha256": sha256(path)}))


def written(out: Path) -> dict[str, Any]:
    (path,) = out.iterdir()
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_a_running_server_is_judged_and_then_measured(
    server: EmbeddedTriton,
    repository: Path,
    golden: Golden,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "not" / "there" / "yet"
    flags = ["--url", server.grpc_url, "--scans", str(scans), "--out", str(out), *FEW]
    load = ["--concurrency", "1,3", "--batch", "1,6", "--texts", "36", "--rate", "50"]
    assert main(["bench", "--repository", str(repository), *flags, *load, "--json"]) == 0
    printed = capsys.readouterr().out
    found = written(out)
    assert json.loads(printed) == found
    # A file's name may name a patient, or whose checkpoint it is.
    assert NAME not in printed
    assert golden.checkpoint.name not in printed
    assert found["release"]["checkpoint"] == {
        "sha256": sha256(golden.checkpoint), "variant": "v2", "random_weights": False,
    }  # fmt: skip
    assert list(found)[:2] == ["passed", "parity"]
    assert found["parity"]["verdict"] == "PASS"
    assert [check["verdict"] for check in found["parity"]["checks"]] == ["PASS", "PASS"]
    assert found["parity"]["baseline"] == "ONNX Runtime"
    assert found["random_weights"] is False
    assert found["server"]["kind"] == "already running"
    assert found["server"]["models"]["ctclip_vision"]["backend"] == "onnxruntime"
    assert found["scans"][0]["bytes"] == 2 * np.prod(found["scans"][0]["shape_zxy"])
    assert found["memory"]["server_processes"] is None
    assert [level["clients"] for level in found["whole_path"]] == [1, 3]
    assert [level["sent_as"] for level in found["vision"]] == ["1", "4 + 2"]
    for level in levels(found):
        assert (level["n"], level["errors"], level["wrong_answers"]) == (3, {}, 0), level["name"]
        latency = level["latency_ms"]
        assert 0 < latency["least"] <= latency["p50"] <= latency["p95"] <= latency["p99"]
        assert level["throughput_per_s"] > 0
    one = found["whole_path"][0]
    assert {"pack", "infer", "total"} <= set(one["client_median_ms"])
    assert one["triton"]["ctclip_vision"]["requests"] == 3
    assert {"queue_ms", "compute_input_ms", "compute_infer_ms", "compute_output_ms"} <= set(
        one["triton"]["ctclip_preprocess"]
    )
    both = found["vision"][1]
    assert both["units_per_request"] == 6
    assert both["triton"]["ctclip_vision"]["requests"] == 3 * 2
    assert found["texts"][0]["triton"]["ctclip_text"]["mean_batch"] == 36
    shutil.rmtree(out)
    with nobody_reads():
        assert main(["bench", "--repository", str(repository), *flags[: -len(FEW)], *LITTLE]) == 0
    assert written(out)["passed"]


def levels(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        level for kind in ("whole_path", "arrivals", "vision", "texts") for level in found[kind]
    ]


def test_the_embedded_server_is_started_and_stopped(
    repository: Path,
    golden: Golden,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reference = ["--against", str(golden.checkpoint), "--text-model", str(golden.text_model)]
    flags = ["--scans", str(scans), "--out", str(tmp_path), *LITTLE, *reference]
    assert main(["bench", "--repository", str(repository), *flags]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("PARITY PASS against PyTorch fp32, worst of 1 scans")
    assert f"checkpoint {sha256(golden.checkpoint)[:16]}…" in printed
    for part in ("whole path, own bank", "zero-shot", "p99", "per s", "Inside Triton", "n < 100"):
        assert part in printed
    found = written(tmp_path)
    assert found["server"]["kind"] == "embedded"
    memory = found["memory"]["server_processes"]
    assert 0 < memory["before_bytes"] <= memory["most_bytes"]


def test_a_swapped_model_is_not_timed(
    server: EmbeddedTriton,
    copied: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil_findings(copied, record=True)
    flags = ["--url", server.grpc_url, "--scans", str(scans), "--out", str(tmp_path / "out")]
    assert main(["bench", "--repository", str(copied), *flags, *LITTLE]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("PARITY FAIL")
    assert "FAIL whole path, own bank" in printed
    assert "|Δprobability|" in printed
    assert "p99" not in printed
    found = written(tmp_path / "out")
    assert (found["passed"], found["parity"]["verdict"]) == (False, "FAIL")
    assert levels(found) == []
    assert next((tmp_path / "out").iterdir()).stem.endswith("-FAILED")


def test_a_file_that_nobody_judged_is_not_timed(
    copied: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_findings(copied, record=False)
    flags = ["--scans", str(scans), "--out", str(tmp_path / "out")]
    assert main(["bench", "--repository", str(copied), *flags, *LITTLE]) == 1
    printed = capsys.readouterr().out
    assert "ctclip_findings: model.onnx is not the file that provenance.json" in printed
    assert "p99" not in printed


def test_one_wrong_answer_under_load_takes_the_verdict_back() -> None:
    good = StepVerdict("whole path", "PASS")
    level = make_level("level", {}, 1, [Sample(0, 1), Sample(1, 2, complaint="cosine 0.1")], None)
    found = Measurement(JudgedAnswers("PyTorch", BOUNDS["fp32"], (good,)), whole_path=(level,))
    assert found.agreement.passed
    assert not found.passed
    assert found.wrong == ("level: cosine 0.1",)
    assert not replace(found.agreement, verdicts=()).passed


def test_a_dead_server_is_said_at_once(
    repository: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--url", url, "--scans", str(scans), "--out", str(tmp_path / "out")]
        assert main(["bench", "--repository", str(repository), *flags]) == 4
    printed = capsys.readouterr().err
    assert f"{url}: no Triton answers there" in printed
    assert "Traceback" not in printed
    assert list((tmp_path / "out").iterdir()) == []


def test_numbers_do_not_go_under_a_wrong_name(
    server: EmbeddedTriton,
    repository: Path,
    copied: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--url", server.grpc_url, "--scans", str(scans), "--out", str(tmp_path / "out")]
    command = ["bench", "--repository", str(repository), *flags, *LITTLE]
    assert main([*command, "--config-name", "openvino"]) == 2
    said = capsys.readouterr().err
    assert "runs it on onnxruntime; config openvino" in said
    assert main([*command, "--config-name", "nonsense"]) == 2
    assert "Variants that it has: openvino" in capsys.readouterr().err
    file = copied / "ctclip_check" / "1" / "provenance.json"
    content = json.loads(file.read_text())
    content["release"]["release"] = "feedfeedfeedfeed"
    file.write_text(json.dumps(content))
    assert main(["bench", "--repository", str(copied), *flags, *LITTLE]) == 2
    assert ", expected feedfeedfeedfeed." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--against", "x.pt"], "go together"),
        (["--out", "{file}"], "--out"),
        (["--scans", "/nowhere"], "is not a folder"),
        (["--repository", "/nowhere"], "/nowhere"),
        (["--url", "localhost"], "--url: got 'localhost', expected host:port."),
    ],
)
def test_usage(
    more: list[str],
    message: str,
    repository: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.touch()
    flags = [flag.format(file=file) for flag in more]
    base = ["bench", "--repository", str(repository), "--scans", str(scans)]
    assert main([*base, "--out", str(tmp_path / "out"), *flags]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "flags", [["--batch", "a"], ["--requests", "0"], ["--level-s", "0"], ["--concurrency", "-1"]]
)
def test_numbers_that_cannot_be(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--repository", "x", *flags])
    assert stopped.value.code == 2
    assert f"argument {flags[0]}: got" in capsys.readouterr().err
