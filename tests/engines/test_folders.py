"""A build that does not end well leaves no folder that it made."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ctclip_client.cli.program import main
from ctclip_client.contract import VISION
from ctclip_export.engines import build as build_module
from ctclip_export.engines.build import build_engines
from ctclip_export.engines.target import RTX, EngineError


def _refused(repository: Path) -> None:
    """The first graph cannot be compiled: nothing is ever placed."""
    graph = repository / VISION.name / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")


def test_a_refused_build_leaves_no_folder(copied: Callable[..., Path], tmp_path: Path) -> None:
    repository, out = copied(), tmp_path / "new" / "engines"
    _refused(repository)
    with pytest.raises(EngineError):
        build_engines(repository, RTX, out=out)
    assert not out.parent.exists()


@pytest.mark.parametrize("failure", [EngineError("it died"), KeyboardInterrupt()])
def test_a_build_that_ends_badly_leaves_no_folder_of_its_own(
    failure: BaseException,
    exported: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(build_module, "compile_in_process", fail)
    kept = tmp_path / "kept"
    kept.mkdir()
    for out in (kept / "new" / "engines", kept):
        with pytest.raises(type(failure)):
            build_engines(exported("fp32"), RTX, out=out)
    assert list(kept.iterdir()) == []  # and the folder that was there is there
    (kept / "note").touch()
    with pytest.raises(type(failure)):
        build_engines(exported("fp32"), RTX, out=kept)
    assert [path.name for path in kept.iterdir()] == ["note"]


def test_a_terminated_command_leaves_no_folder(
    exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        build_module, "compile_in_process", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    out = tmp_path / "engines"
    command = ["build-engines", "--repository", str(exported("fp32")), "--target", "tensorrt-rtx"]
    assert main([*command, "--out", str(out)]) == 130
    assert not out.exists()
