"""What a machine lacks is said: a library, GPU memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctclip_client.errors import InvalidInput
from ctclip_export.engines import run as run_module
from ctclip_export.engines.run import Engine
from ctclip_export.engines.target import EngineError, Target, load_library


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """TensorRT's Python package where its own library is missing, as its loader finds out."""
    folder = tmp_path / "site"
    folder.mkdir()
    name = "broken_tensorrt"
    (folder / f"{name}.py").write_text("import ctypes; ctypes.CDLL('libnvinfer.so.0')\n")
    monkeypatch.syspath_prepend(folder)
    return Target("tensorrt", (name,), "tensorrt", "model.plan", True, True)


def test_a_library_that_does_not_load_is_said(broken: Target) -> None:
    with pytest.raises(InvalidInput, match=r"--target tensorrt: libnvinfer\.so\.0: ") as caught:
        load_library(broken)
    assert "pip install tensorrt" in caught.value.remedy


class _Logger:
    class Severity:
        ERROR, INTERNAL_ERROR, WARNING = range(3)


def _library(context: object) -> Any:
    """As much of TensorRT as loads a plan; `context` is what it makes of one for running."""
    engine = SimpleNamespace(create_execution_context=lambda: context)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    return SimpleNamespace(ILogger=_Logger, Runtime=lambda logger: runtime)


def test_a_gpu_without_room_for_an_engine_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT gives None then, and the first use of that was an AttributeError."""
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"a plan")
    monkeypatch.setattr(run_module, "load_library", lambda target: _library(None))
    with pytest.raises(EngineError, match=r"model\.plan cannot be run: no reason given") as caught:
        Engine(plan)
    assert "GPU memory" in caught.value.remedy
    assert "nvidia-smi" in caught.value.remedy
