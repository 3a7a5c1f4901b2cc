"""What the kept verdict remembers of earlier climbs, here without a GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctclip_bench.ladder import climb as module
from ctclip_client.cli import main
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


def test_a_climb_without_a_rung_leaves_the_verdict(
    own: Path, name: str, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LadderRecord(name, True, scans=4).write(own, "1")
    before = kept(own)
    none = [module._Step("ONNX", lambda *_: None, "no kernels")]
    monkeypatch.setattr(module._Climber, "_ladder", lambda _: none)
    command = ["parity", "--repository", str(own), "--scans", scans(phantoms, tmp_path / "s", 1)]
    assert main(command) == 1
    assert kept(own) == before
