"""Warm-up tensors take their places whole or not at all, after the engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ctclip_client.cli.program import main
from ctclip_client.errors import Unreadable
from ctclip_client.release.records import read_model_record
from ctclip_export.engines import build as build_module
from ctclip_export.engines.build import build_engines
from ctclip_export.engines.compiler import Job, Outcome
from ctclip_export.engines.gpu import Gpu
from ctclip_export.engines.target import TENSORRT
from ctclip_export.engines.warmup import write_warmup


def test_a_warm_up_that_cannot_be_written_leaves_nothing(copied: Callable[..., Path]) -> None:
    repository = copied("fp32")
    vision = repository / "ctclip_vision"
    (vision / "warmup" / "VOXELS").mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"):
        write_warmup(repository, "1", read_model_record(vision / "1").release)
    assert [path.name for path in (vision / "warmup").iterdir()] == ["VOXELS"]


# --- the warm-up's place in a build ---


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU and a TensorRT that builds anything at once; the graphs that it was given."""
    given: list[str] = []

    def compile_anything(job: Job, *_: object) -> Outcome:
        given.append(job.model)
        Path(job.plan).write_bytes(b"a plan")
        return Outcome("", [], [])

    gpu = Gpu("NVIDIA A100", "8.0", 80 * 2**30, 0, "580")
    monkeypatch.setattr(build_module, "load_library", lambda _: None)
    monkeypatch.setattr(build_module, "library_version", lambda _: "11.2.1.2")
    monkeypatch.setattr(build_module, "read_gpu", lambda: gpu)
    monkeypatch.setattr(build_module, "compile_in_process", compile_anything)
    return given


def test_a_release_without_what_a_warm_up_needs_is_told_before_anything_is_built(
    builds: list[str], copied: Callable[..., Path]
) -> None:
    repository = copied("fp32")
    path = repository / "ctclip_vision" / "1" / "provenance.json"
    record = json.loads(path.read_text())
    record["release"]["prompts"] = []
    path.write_text(json.dumps(record))
    with pytest.raises(Unreadable, match=r"release\.prompts: got \[\]"):
        build_engines(repository, TENSORRT)
    assert builds == []


def test_a_warm_up_that_cannot_be_written_is_said_beside_engines_that_are_placed(
    builds: list[str], copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    repository = copied("fp32")
    (repository / "ctclip_vision" / "warmup" / "VOXELS").mkdir(parents=True)
    command = ["build-engines", "--repository", str(repository), "--target", "tensorrt"]
    assert main(command) == 2
    *_, cause, remedy = capsys.readouterr().err.splitlines()
    assert cause.startswith("error: warm-up: ")
    assert "The engines are in their places" in cause
    assert "nothing was placed" not in remedy
    assert len(list(repository.glob("*/1/model.plan"))) == 2
    (repository / "ctclip_vision" / "warmup" / "VOXELS").rmdir()
    assert main(command) == 0
    assert builds == ["ctclip_vision", "ctclip_text"]  # kept, as the remedy says
