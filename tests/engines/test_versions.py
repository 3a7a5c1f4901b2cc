"""Which version engines are built for, and folders that cannot be written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctclip_client.cli.program import main
from ctclip_client.errors import InvalidInput
from ctclip_export.engines.build import ENCODERS, _read_repository
from ctclip_export.engines.compiler import _keep, _kept

Copied = Callable[..., Path]


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
