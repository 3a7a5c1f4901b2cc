"""The library's own version counts, and timings that cannot be used cost no engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorrt_rtx

from ctclip_client.contract import SCORE
from ctclip_export.engines import versions
from ctclip_export.engines.compiler import Job, compile_plan
from ctclip_export.engines.profile import profile_of
from ctclip_export.engines.target import RTX, EngineError
from ctclip_export.engines.versions import library_version

ROOT = Path(__file__).parents[2]


def test_the_library_is_asked_for_its_version() -> None:
    """This wheel carries its library: both were made together."""
    lying = SimpleNamespace(Builder=tensorrt_rtx.Builder, __version__="1.6.0.0")
    assert library_version(lying) == library_version(tensorrt_rtx) == tensorrt_rtx.__version__


def test_the_check_of_the_engines_image_passes_where_both_agree() -> None:
    text = (ROOT / "deploy/engines/Dockerfile").read_text(encoding="utf-8")
    assert "python3 -B -m ctclip_export.engines.versions tensorrt \\\n" in text
    done = subprocess.run(
        [sys.executable, "-B", "-m", "ctclip_export.engines.versions", RTX.name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:2] == ["tensorrt-rtx", f"{tensorrt_rtx.__version__}:"]


@pytest.mark.parametrize(("made_for", "code"), [("1.6.0.0", 1), ("{}.post1", 0)])
def test_it_fails_where_the_bindings_are_of_another_library(
    made_for: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = tensorrt_rtx.__version__
    monkeypatch.setattr(tensorrt_rtx, "__version__", made_for.format(version))
    assert versions.main([RTX.name]) == code
    expected = f"the Python bindings are of {made_for}, the library is {version}"
    assert (expected in capsys.readouterr().err) is (code == 1)


def test_a_library_that_does_not_tell_is_an_error() -> None:
    # An extension of Python's own, which is linked to no TensorRT.
    builder = type("Builder", (), {"__module__": "_ctypes"})
    with pytest.raises(EngineError, match=r"does not tell its version .*getInferLibMajorVersion"):
        library_version(SimpleNamespace(Builder=builder, __version__="8.6"))


# --- timings of kernels ---


@pytest.fixture
def job(exported: Callable[[str], Path], tmp_path: Path) -> Job:
    """A small graph for the real compiler, which loads and hands out timings but measures none."""
    graph = exported("fp32") / SCORE.name / "1" / "model.onnx"
    return Job(
        RTX.name, SCORE.name, str(graph), str(tmp_path / "model.rtx"), "8.0",
        profile_of(SCORE, graph), str(tmp_path / "timing.bin"),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_timings_are_kept_and_damaged_ones_replaced(job: Job) -> None:
    cache = Path(job.timing_cache)
    cache.write_bytes(b"of another version")
    assert compile_plan(job, lambda _: None).failure == ""
    kept = cache.read_bytes()
    assert kept != b"of another version"
    again = replace(job, plan=job.plan + "2")
    assert compile_plan(again, lambda _: None).failure == ""
    assert cache.read_bytes() == kept


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
@pytest.mark.parametrize("refused", ["kept ones", "all"])
def test_a_finished_engine_survives_a_refusal_of_timings(
    refused: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An A100 of 40 GB refuses those of one of 80 GB; then there may be none to keep."""
    cache = Path(job.timing_cache)
    cache.write_bytes(b"of another GPU")
    config = tensorrt_rtx.IBuilderConfig
    made = config.create_timing_cache
    take = config.set_timing_cache
    given: list[bytes] = []

    def create(self: object, content: bytes) -> object:
        given.append(content)
        return made(self, b"")

    def refuse(self: object, timings: object, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if given[-1] or refused == "all":
            return False
        return bool(take(self, timings, ignore_mismatch))

    monkeypatch.setattr(config, "create_timing_cache", create)
    monkeypatch.setattr(config, "set_timing_cache", refuse)
    assert compile_plan(job, lambda _: None).failure == ""
    assert Path(job.plan).stat().st_size > 0
    assert given == [b"of another GPU", b""]
    assert (cache.read_bytes() == b"of another GPU") is (refused == "all")
