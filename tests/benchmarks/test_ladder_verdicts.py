"""What the kept verdict remembers of earlier climbs, here without a GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctclip_bench.parity import run as module
from ctclip_client.cli.program import main
from ctclip_export.parity.judge import Verdict
from ctclip_server.releases.ladder import LadderRecord, plans_of


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "repository"))


@pytest.fixture
def name(own: Path) -> str:
    record = json.loads((own / "ctclip_check" / "1" / "provenance.json").read_text())
    return str(record["release"]["release"])


@pytest.fixture(autouse=True)
def lower_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime, OpenVINO and an engine that has no GPU: no server is needed here."""
    whole = module._Climber._ladder
    monkeypatch.setattr(module, "missing_engine", lambda _: "no GPU")
    monkeypatch.setattr(module._Climber, "_ladder", lambda climber: whole(climber)[:3])


def scans(phantoms: Path, folder: Path, count: int) -> str:
    folder.mkdir()
    for seed in range(count):
        shutil.copy(phantoms / f"ct{seed}.nii.gz", folder)
    return str(folder)


def kept(own: Path) -> dict[str, Any]:
    return dict(json.loads((own / "ctclip_check" / "1" / "ladder.json").read_text()))


def test_engines_that_passed_elsewhere_are_not_forgotten(
    own: Path, name: str, phantoms: Path, tmp_path: Path
) -> None:
    for model in ("ctclip_vision", "ctclip_text"):
        (own / model / "1" / "model.plan").write_bytes(b"a plan")
    plans = plans_of(own, "1")
    LadderRecord(name, True, plans=plans, scans=2).write(own, "1")
    command = ["parity", "--repository", str(own), "--scans", scans(phantoms, tmp_path / "s", 2)]
    assert main(command) == 0
    assert kept(own)["plans"] == plans
    assert (kept(own)["scans"], kept(own)["sample"], kept(own)["reference"]) == (2, False, False)
    (own / "ctclip_text" / "1" / "model.plan").write_bytes(b"another plan")
    assert main(command) == 0
    assert set(kept(own)["plans"]) == {"ctclip_vision"}


def test_fewer_scans_do_not_lift_a_failure(
    own: Path, name: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LadderRecord(name, False, ["ONNX fp32, OpenVINO: NaN"], scans=2).write(own, "1")
    command = ["parity", "--repository", str(own), "--json"]
    assert main([*command, "--scans", scans(phantoms, tmp_path / "one", 1)]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["passed"] is True
    assert "failed on 2 scans, this climb saw 1" in said.err
    assert "at least 2 scans" in said.err
    assert (kept(own)["passed"], kept(own)["scans"]) == (False, 2)
    assert kept(own)["failures"] == ["ONNX fp32, OpenVINO: NaN"]
    assert main([*command, "--scans", scans(phantoms, tmp_path / "two", 2)]) == 0
    assert "at least" not in capsys.readouterr().err
    assert kept(own)["passed"] is True


def test_a_damaged_verdict_is_replaced_with_a_word(
    own: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "ctclip_check" / "1" / "ladder.json").write_text('{"plans": null}')
    command = ["parity", "--repository", str(own), "--scans", scans(phantoms, tmp_path / "s", 1)]
    assert main(command) == 0
    assert "release: it is missing, expected text" in capsys.readouterr().err
    assert kept(own)["passed"] is True


def test_a_climb_in_which_the_failed_rung_did_not_run_lifts_no_failure(
    own: Path, name: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = ["served by Triton"]
    LadderRecord(name, False, ["served by Triton: NaN"], failed, scans=1).write(own, "1")
    command = ["parity", "--repository", str(own), "--scans", scans(phantoms, tmp_path / "s", 2)]
    assert main(command) == 0
    assert "it failed in 'served by Triton', which did not run" in capsys.readouterr().err
    assert kept(own)["passed"] is False


def test_the_names_of_the_rungs_are_kept_without_addresses() -> None:
    verdicts = (
        Verdict(module.FILES, "PASS"),
        Verdict("ONNX, OpenVINO", "PASS"),
        Verdict("TensorRT engine", "FAIL", "it is slow"),
        Verdict("served by Triton at gpu7:8001", "FAIL", "NaN"),
        Verdict("client, from a CT file at gpu7:8001", "NOT RUN", "no client"),
    )
    record = module.Climb({"release": "r"}, "ONNX", ("a",), verdicts, None, {"m": "x"}).record()
    assert record.failed == ("served by Triton at --url",)
    assert record.ran == ("ONNX", "ONNX, OpenVINO", "TensorRT engine", "served by Triton at --url")
    assert record.failed_plans == {"m": "x"}
    assert record.engines_date == record.date


@pytest.mark.parametrize("before", [True, False])
def test_a_climb_without_a_rung_leaves_the_verdict(
    before: bool,
    own: Path,
    name: str,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And where there was none, it does not bar the release."""
    path = own / "ctclip_check" / "1" / "ladder.json"
    if before:
        LadderRecord(name, True, scans=4).write(own, "1")
    text = path.read_text() if before else ""
    none = [module._Step("ONNX", lambda *_: None, "no kernels")]
    monkeypatch.setattr(module._Climber, "_ladder", lambda _: none)
    command = ["parity", "--repository", str(own), "--scans", scans(phantoms, tmp_path / "s", 1)]
    assert main(command) == 1
    assert (path.read_text() if path.exists() else "") == text
    assert "nothing could be compared on this machine" in capsys.readouterr().err
