"""Which version of a repository may serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctclip_client.errors import Unreadable
from ctclip_client.release.digest import sha256
from ctclip_client.release.members import read_members
from ctclip_client.release.parity_runs import ParityRun, ParityStep, append_run
from ctclip_server.releases.may_serve import ReleaseRefusedError, check_release

from ..tiny_release import GRAPH, result, write_record, write_release


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release", "r", 1.0)


def check(repository: Path) -> None:
    check_release(read_members(repository), 1)


def refused(repository: Path) -> str:
    """The reason; a file that cannot be read is none, but an error in itself."""
    with pytest.raises((ReleaseRefusedError, Unreadable)) as caught:
        check(repository)
    damaged = "is damaged" in caught.value.cause
    assert caught.value.exit_code == (2 if damaged else 1)
    assert caught.value.remedy
    return caught.value.cause


def passes(repository: Path, **engines: str) -> None:
    append_run(repository, 1, ParityRun("r", True, (ParityStep("ONNX", "PASS"),), engines=engines))


def graph_record(repository: Path, **changes: Any) -> None:
    file = repository / GRAPH / "1/model.onnx"
    write_record(file.parent, **{"file_sha256": sha256(file)} | changes)


def test_the_exports_own_comparisons_let_it_in(release: Path) -> None:
    check(release)


@pytest.mark.parametrize(
    ("parity", "reason"),
    [
        ([], "'shift' version 1 failed the export's parity check: it has no parity results"),
        ([result(measured=0.5)], "failed the export's parity check: Y: 5.0e-01, allowed 1.0e-04"),
        (None, "parity: got null, expected a list"),
    ],
)
def test_results_that_are_none_or_out_of_bounds_let_nothing_in(
    parity: Any, reason: str, release: Path
) -> None:
    graph_record(release, parity=parity)
    assert reason in refused(release)


def test_an_engine_serves_only_after_a_run_with_that_very_engine(release: Path) -> None:
    plan = release / GRAPH / "1/model.plan"
    plan.write_bytes(b"a plan")
    assert "the engine of 'shift' was never compared" in refused(release)
    passes(release)  # without engines
    assert "the engine of 'shift' was never compared" in refused(release)
    engines = read_members(release).engines(1)
    assert engines == {GRAPH: sha256(plan)}
    passes(release, **engines)
    check(release)
    passes(release)
    check(release)
    plan.write_bytes(b"another plan")
    assert "the engine of 'shift' was never compared" in refused(release)


def test_a_plan_of_another_name_is_one_more(release: Path) -> None:
    """Both configs may be chosen at the next start, and no parity step runs the second plan."""
    folder = release / GRAPH
    for name in ("model", "other"):
        (folder / f"1/{name}.plan").write_bytes(name.encode())
    other = (folder / "configs/tensorrt.pbtxt").read_text()
    other += 'default_model_filename: "other.plan"\n'
    (folder / "configs/other.pbtxt").write_text(other)
    passes(release, **{GRAPH: sha256(folder / "1/model.plan")})
    assert "the engine of 'shift/other.plan' was never compared" in refused(release)


def test_a_plan_that_no_config_would_load_is_not_asked_for(release: Path) -> None:
    (release / GRAPH / "1/model.plan").write_bytes(b"a plan")
    (release / GRAPH / "configs/tensorrt.pbtxt").unlink()
    check(release)


def test_a_damaged_list_is_no_pass(release: Path) -> None:
    (release / "ctclip_check/1/parity_runs.jsonl").write_text('{"passed": true}\n')
    assert "parity_runs.jsonl is damaged: line 1" in refused(release)


def test_another_file_than_the_one_that_was_checked_is_refused(release: Path) -> None:
    (release / GRAPH / "1/model.onnx").write_bytes(b"other")
    assert "it is not the file that was checked" in refused(release)


def test_another_further_file_than_the_one_that_was_checked_is_refused(release: Path) -> None:
    gpu_graph = release / GRAPH / "1/model_gpu.onnx"
    gpu_graph.write_bytes(b"checked")
    graph_record(release, further_files={gpu_graph.name: sha256(gpu_graph)})
    check(release)
    gpu_graph.write_bytes(b"other")
    assert "model_gpu.onnx has SHA-256" in refused(release)
    gpu_graph.unlink()
    with pytest.raises(Unreadable, match=r"model_gpu\.onnx: No such file"):
        check(release)
    graph_record(release, further_files={"../model.onnx": ""})
    assert "further_files: got ../model.onnx, expected the name of a file" in refused(release)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_that_a_config_names_is_there_and_was_checked(backend: str, release: Path) -> None:
    gpu_graph = release / GRAPH / "1/model_gpu.onnx"
    config = (release / GRAPH / "config.pbtxt").read_text().replace("onnxruntime", backend)
    config += f'default_model_filename: "{gpu_graph.name}"\n'
    (release / GRAPH / "configs/gpu.pbtxt").write_text(config)
    assert "configs/gpu.pbtxt loads model_gpu.onnx, which is missing" in refused(release)
    gpu_graph.write_bytes(b"by hand")
    assert "provenance.json does not describe model_gpu.onnx" in refused(release)
    graph_record(release, further_files={gpu_graph.name: sha256(gpu_graph)})
    check(release)


def test_two_releases_in_one_version_are_refused(release: Path) -> None:
    graph_record(release, release="another")
    assert "version 1 mixes two releases: 'ctclip_check' is of r, 'shift' of" in refused(release)


def test_an_incomplete_version_is_refused(release: Path) -> None:
    (release / "shifted/1").rmdir()
    assert "version 1 is incomplete: 'shifted' has no such version" in refused(release)
