"""`promote --from` brings a release in as a new version, whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctclip_client.errors import InvalidInput
from ctclip_client.release.members import read_members
from ctclip_client.release.parity_runs import ParityRun, ParityStep, append_run, read_runs
from ctclip_server.releases.may_serve import ReleaseRefusedError, check_release
from ctclip_server.releases.place import place_release

from ..tiny_release import GRAPH, write_release

PASSED = ParityStep("ONNX", "PASS")


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return write_release(tmp_path / "live", "r", 1.0)


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    return write_release(tmp_path / "candidate", "r", 1.0)


def place(live: Path, candidate: Path) -> int:
    return place_release(read_members(live), read_members(candidate))


def build(repository: Path, plan: bytes) -> None:
    """As `make gpu-check` leaves it: an engine, its warm-up, and a passed run with it."""
    (repository / GRAPH / "1/model.plan").write_bytes(plan)
    (repository / GRAPH / "warmup").mkdir(exist_ok=True)
    (repository / GRAPH / "warmup/X").write_bytes(plan)
    engines = read_members(repository).engines(1)
    append_run(repository, 1, ParityRun("r", True, (PASSED,), engines=engines))


def files(repository: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(repository)): path.read_bytes() if path.is_file() else b""
        for path in sorted(repository.rglob("*"))
    }


def test_a_release_without_a_graph_that_is_served_here_is_refused(
    live: Path, candidate: Path
) -> None:
    """A server that starts with the config would not; nothing is placed."""
    config = (live / GRAPH / "config.pbtxt").read_text()
    config += 'default_model_filename: "model_gpu.onnx"\n'
    (live / GRAPH / "configs/gpu.pbtxt").write_text(config)
    before = files(live)
    with pytest.raises(ReleaseRefusedError, match=r"gpu\.pbtxt loads model_gpu\.onnx, which is"):
        place(live, candidate)
    assert files(live) == before


def test_another_release_becomes_the_next_version(live: Path, tmp_path: Path) -> None:
    other = write_release(tmp_path / "other", "s", 2.0)
    before = files(live)
    assert place(live, other) == 2
    after = files(live)
    assert {name: after[name] for name in before} == before
    for model in (GRAPH, "ctclip_check", "shifted"):
        assert files(live / model / "2") == files(other / model / "1")
    check_release(read_members(live), 2)


def test_a_release_that_is_there_is_not_placed_twice(live: Path, candidate: Path) -> None:
    before = files(live)
    assert place(live, candidate) == 1
    assert files(live) == before


def test_with_other_engines_it_becomes_a_version_of_its_own(live: Path, candidate: Path) -> None:
    build(live, b"old")
    build(candidate, b"new")
    before = files(live)
    assert place(live, candidate) == 2
    assert place(live, candidate) == 2
    assert {name: files(live)[name] for name in before} == before
    assert (live / GRAPH / "2/model.plan").read_bytes() == b"new"
    for version in (1, 2):
        check_release(read_members(live), version)


def test_engines_come_with_their_runs_and_their_warm_up(live: Path, candidate: Path) -> None:
    build(candidate, b"a plan")
    assert place(live, candidate) == 2
    assert read_runs(live, 2) == read_runs(candidate, 1)
    assert (live / GRAPH / "warmup/X").read_bytes() == b"a plan"


def test_what_may_not_serve_is_not_placed(live: Path, tmp_path: Path) -> None:
    other = write_release(tmp_path / "other", "s", 2.0)
    step = ParityStep("served", "FAIL", "NaN")
    append_run(other, 1, ParityRun("s", False, (step,), failures=("served: NaN",)))
    before = files(live)
    with pytest.raises(ReleaseRefusedError, match="newest parity run failed: served: NaN"):
        place(live, other)
    assert files(live) == before


def test_a_pass_elsewhere_says_nothing_of_what_failed_here(live: Path, candidate: Path) -> None:
    append_run(live, 1, ParityRun("r", False, (ParityStep("served", "FAIL", "NaN"),)))
    append_run(candidate, 1, ParityRun("r", True, (PASSED,)))
    assert place(live, candidate) == 1
    with pytest.raises(ReleaseRefusedError):
        check_release(read_members(live), 1)


def test_in_the_middle_of_a_promotion_nothing_is_taken(live: Path, tmp_path: Path) -> None:
    other = write_release(tmp_path / "other", "s", 2.0)
    config = (other / "shifted/config.pbtxt").read_text()
    (other / "again/1").mkdir(parents=True)
    again = config.replace('"shifted"', '"again"').replace("model_version: 1", "model_version: 2")
    (other / "again/config.pbtxt").write_text(again)
    with pytest.raises(InvalidInput, match=r"pin versions \[1, 2\], expected one"):
        place(live, other)


def test_a_copy_that_fails_leaves_nothing(live: Path, tmp_path: Path) -> None:
    other = write_release(tmp_path / "other", "s", 2.0)
    (other / GRAPH / "warmup").mkdir()
    (live / GRAPH / "2").write_text("in the way of a folder")
    before = files(live)
    with pytest.raises(InvalidInput, match="cannot copy the release into"):
        place(live, other)
    assert files(live) == before


def test_versions_that_serve_are_named_before_another_comes(live: Path, tmp_path: Path) -> None:
    """Without a policy Triton would take the newest at its next start."""
    path = live / GRAPH / "config.pbtxt"
    policy = "version_policy { specific { versions: [1] } }"
    path.write_text(path.read_text().replace(policy, ""))
    assert place(live, write_release(tmp_path / "other", "s", 2.0)) == 2
    assert policy in path.read_text()


@pytest.mark.parametrize(
    ("model", "before", "after", "cause"),
    [
        (GRAPH, 'name: "X"', 'name: "Z"', "'shift' has another input there: Z [-1, 2], here X"),
        (GRAPH, "dims: [-1, 2]", "dims: [-1, 3]", "another input there: X [-1, 3], here X [-1, 2]"),
        (GRAPH, "max_batch_size: 0", "max_batch_size: 8", "another max_batch_size there: 8, here"),
    ],
)
def test_other_tensors_are_refused(
    model: str, before: str, after: str, cause: str, live: Path, tmp_path: Path
) -> None:
    other = write_release(tmp_path / "other", "s", 2.0)
    path = other / model / "config.pbtxt"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(InvalidInput) as caught:
        place(live, other)
    assert cause in caught.value.cause
    assert "a repository and a server of its own" in caught.value.remedy


def test_other_models_are_refused(live: Path, tmp_path: Path) -> None:
    other = write_release(tmp_path / "other", "s", 2.0)
    (other / "mine/1").mkdir(parents=True)
    config = (other / "shifted/config.pbtxt").read_text().replace('"shifted"', '"mine"')
    (other / "mine/config.pbtxt").write_text(config)
    with pytest.raises(InvalidInput, match="'mine' is in one of the two repositories only"):
        place(live, other)
