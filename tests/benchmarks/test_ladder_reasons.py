"""What a ladder says when it cannot be climbed, and what its kept verdict must not say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ctclip_bench.parity import run as module
from ctclip_bench.parity.process import without_names
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS, TEXT_ENCODER
from ctclip_export.precision.choices import precision_of

PATIENT = "SMITH_JOHN_19500101"


def test_scans_go_by_number(tmp_path: Path) -> None:
    paths = [tmp_path / f"{PATIENT}.nii.gz", tmp_path / f"{PATIENT}.nii.gz.nii.gz"]
    text = f"{paths[1]}: cut short; {paths[0].name}: odd; no such folder {tmp_path}"
    assert (
        without_names(text, paths)
        == "scan 2: cut short; scan 1: odd; no such folder the scans' folder"
    )


def test_a_damaged_scan_fails_the_ladder_without_its_name(
    repository: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(repository, tmp_path / "repository"))
    scans = tmp_path / "scans of a ward"
    scans.mkdir()
    shutil.copy(phantoms / "ct0.nii.gz", scans / "A.nii.gz")
    (scans / f"{PATIENT}.nii.gz").write_bytes(b"not a CT")
    command = ["parity", "--repository", str(own), "--scans", str(scans), "--json"]
    assert main(command) == 1
    rungs = json.loads(capsys.readouterr().out)["rungs"]
    kept = (own / "ctclip_check" / "1" / "parity_runs.jsonl").read_text()
    assert any("scan 2" in rung["reason"] for rung in rungs)
    assert "scan 2" in kept
    for text in (kept, json.dumps(rungs)):
        assert PATIENT not in text
        assert "ward" not in text


def test_no_rung_at_all_is_no_pass_and_no_traceback(
    repository: Path,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a bf16 release without --against on a CPU without bfloat16."""
    own = Path(shutil.copytree(repository, tmp_path / "repository"))
    monkeypatch.setattr(
        module._Climber, "_ladder", lambda _: [module._Step("ONNX", lambda *_: None, "no kernels")]
    )
    command = ["parity", "--repository", str(own), "--scans", str(phantoms), "--json"]
    assert main(command) == 1
    result = json.loads(capsys.readouterr().out)
    assert [rung["verdict"] for rung in result["rungs"]] == ["PASS", "NOT RUN"]
    assert (result["passed"], result["baseline"]) == (False, "nothing")


@pytest.mark.parametrize("json_flag", [["--json"], []])
def test_auroc_names_the_rung_whose_scores_it_is(
    json_flag: list[str],
    repository: Path,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here the third; where higher ones cannot run, it is not what is served."""
    own = Path(shutil.copytree(repository, tmp_path / "repository"))
    whole = module._Climber._ladder
    monkeypatch.setattr(module, "missing_engine", lambda _: "no GPU")
    monkeypatch.setattr(module._Climber, "_ladder", lambda climber: whole(climber)[:3])
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(phantoms / "ct0.nii.gz", scans)
    labels, page = tmp_path / "labels.csv", tmp_path / "page.html"
    columns = ",".join(entry.finding for entry in PUBLISHED_FINDINGS)
    labels.write_text(f"name,{columns}\nct0.nii.gz{',1' * len(PUBLISHED_FINDINGS)}\n")
    command = ["parity", "--repository", str(own), "--scans", str(scans)]
    more = ["--labels", str(labels), "--report", str(page), *json_flag]
    assert main([*command, *more]) == 0
    said = capsys.readouterr().out
    if json_flag:
        areas = json.loads(said)["auroc"]
        assert {area["rung"] for area in areas} == {"ONNX fp32, OpenVINO"}
    else:
        assert "AUROC of ONNX fp32, OpenVINO against ONNX fp32, ONNX Runtime" in said
    assert "<th>ONNX fp32, OpenVINO</th>" in page.read_text()


def test_the_text_engine_of_an_int8_release_is_a_float32_one() -> None:
    assert precision_of(TEXT_ENCODER, "int8") == "fp32"
