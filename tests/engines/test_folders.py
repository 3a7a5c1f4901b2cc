"""Which version is built, into which folders; what does not end well leaves none that it made."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ctclip_client.cli.program import main
from ctclip_client.errors import InvalidInput
from ctclip_export.engines import build as build_module
from ctclip_export.engines.build import ENCODERS, _read_repository, build_engines
from ctclip_export.engines.compiler import _keep, _kept
from ctclip_export.engines.target import RTX, EngineError

Copied = Callable[..., Path]


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


def repin(repository: Path, model: str, version: int) -> None:
    config = repository / model / "config.pbtxt"
    config.write_text(config.read_text().replace("model_version: 1", f"model_version: {version}"))


def test_the_served_version_is_built_and_not_the_newest(copied: Copied) -> None:
    repository = copied()
    for model in ENCODERS:
        shutil.copytree(repository / model.name / "1", repository / model.name / "2")
    assert set(_read_repository(repository, ENCODERS)[1].values()) == {"1"}
    for config in repository.glob("*/config.pbtxt"):
        repin(repository, config.parent.name, 2)
    assert set(_read_repository(repository, ENCODERS)[1].values()) == {"2"}


def test_in_the_middle_of_a_promotion_nothing_is_built(copied: Copied) -> None:
    repository = copied()
    repin(repository, "ctclip_pathologies", 2)
    with pytest.raises(InvalidInput, match=r"pin versions \[1, 2\], expected one"):
        _read_repository(repository, ENCODERS)


def test_a_folder_that_cannot_be_written_is_said_in_words(
    exported: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """/proc takes no folder, not even root's."""
    command = ["build-engines", "--repository", str(exported("fp32")), "--target", "tensorrt-rtx"]
    assert main([*command, "--out", "/proc/engines"]) == 2
    said = capsys.readouterr().err
    assert "--out: cannot write below /proc/engines" in said
    assert "Traceback" not in said


def test_an_engine_is_not_lost_for_want_of_a_place_for_its_cache(tmp_path: Path) -> None:
    cache = Path("/proc/ctclip/timing.bin")
    _keep(cache, b"measured")
    assert _kept(cache) == b""
    _keep(tmp_path / "new" / "timing.bin", b"measured")
    assert _kept(tmp_path / "new" / "timing.bin") == b"measured"
