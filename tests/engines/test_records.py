"""What lies beside an engine is read with care, and written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctclip_client.cli.program import main
from ctclip_client.errors import CTClipError, Unreadable
from ctclip_export.engines import build as build_module
from ctclip_export.engines.build import build_engines
from ctclip_export.engines.compiler import Job, Outcome
from ctclip_export.engines.gpu import Gpu
from ctclip_export.engines.record import Key, Record, difference, read_record
from ctclip_export.engines.target import TENSORRT, EngineError
from ctclip_export.engines.warmup import write_warmup

KEY = Key("a" * 64, "11.2.0", "8.0", {"X": [[1, 2], [2, 2], [4, 2]]}, "fp16")
RECORD = Record(
    **asdict(KEY), gpu_name="A100", plan_sha256="b" * 64, plan_bytes=3,
    layers={"weights_bytes": 5},
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.plan").write_bytes(b"abc")
    RECORD.write(tmp_path)
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    assert read_record(folder) == RECORD


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "got [], expected an object"),
        ({"plan_bytes": "3"}, 'plan_bytes: got "3", expected a whole number'),
        ({"plan_bytes": None}, "plan_bytes: got null, expected a whole number"),
        ({"layers": None}, "layers: got null, expected an object"),
        ({"layers": {"weights_bytes": "5"}}, 'layers.weights_bytes: got "5", expected a whole'),
        ({"profile": []}, "profile: got [], expected an object of shapes"),
        ({"profile": {"X": [1]}}, 'profile: got {"X": [1]}, expected an object of shapes'),
        ({"precision": 16}, "precision: got 16, expected text"),
    ],
)
def test_a_wrong_field_is_named(content: Any, complaint: str, folder: Path) -> None:
    path = folder / "engine.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | content if isinstance(content, dict) else content))
    with pytest.raises(EngineError) as caught:
        read_record(folder)
    assert f"{path} is damaged: {complaint}" in caught.value.cause
    assert "ctclip build-engines" in caught.value.remedy
    assert complaint in difference(folder, "model.plan", KEY)


def test_a_missing_field_is_named(folder: Path) -> None:
    path = folder / "engine.json"
    path.write_text(json.dumps({k: v for k, v in asdict(RECORD).items() if k != "plan_sha256"}))
    with pytest.raises(EngineError, match="plan_sha256: it is missing, expected text"):
        read_record(folder)


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "engine.json").mkdir()
    with pytest.raises(OSError, match="irectory"):
        RECORD.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]


def test_a_warm_up_that_cannot_be_written_leaves_nothing(copied: Callable[..., Path]) -> None:
    repository = copied("fp32")
    vision = repository / "ctclip_vision"
    record = json.loads((vision / "1" / "provenance.json").read_text())
    (vision / "warmup" / "VOXELS").mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"):
        write_warmup(repository, "1", record["release"])
    assert [path.name for path in (vision / "warmup").iterdir()] == ["VOXELS"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"geometry": None}, "geometry: got null, expected an object"),
        (
            {"geometry": {"volume_shape": [1, 2], "target_spacing_mm": [1, 1, 1]}},
            "geometry.volume_shape: got [1, 2], expected three whole numbers",
        ),
        (
            {"geometry": {"volume_shape": [1, 2, 3], "target_spacing_mm": ["a", 1, 1]}},
            'geometry.target_spacing_mm: got ["a", 1, 1], expected three numbers',
        ),
        ({"prompts": []}, "prompts: got [], expected a list of objects with a text 'absent'"),
        ({"prompts": [{"absent": 1}]}, "expected a list of objects with a text 'absent'"),
    ],
)
def test_a_release_without_what_a_warm_up_needs_is_told(
    change: dict[str, Any], complaint: str, exported: Callable[[str], Path]
) -> None:
    repository = exported("fp32")
    record = json.loads((repository / "ctclip_vision" / "1" / "provenance.json").read_text())
    with pytest.raises(Unreadable) as caught:
        write_warmup(repository, "1", record["release"] | change)
    assert isinstance(caught.value, CTClipError)
    assert complaint in caught.value.cause
    assert "ctclip export" in caught.value.remedy
    assert not list(repository.glob("*/warmup"))


# --- the warm-up's place in a build ---


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU and a TensorRT that builds anything at once; the graphs that it was given."""
    given: list[str] = []

    def compile_anything(job: Job, *_: object) -> Outcome:
        given.append(Path(job.onnx).parent.parent.name)
        Path(job.plan).write_bytes(b"a plan")
        return Outcome("", [], [])

    gpu = Gpu("NVIDIA A100", "8.0", 80 * 2**30, 0, "580")
    monkeypatch.setattr(build_module, "load_library", lambda _: SimpleNamespace(__version__="11.2"))
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
    with pytest.raises(Unreadable, match=r"warm-up: .+ prompts: got \[\]"):
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
