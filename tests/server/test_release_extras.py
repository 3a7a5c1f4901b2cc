"""`promote --from` a release that is there already takes its newer engines and verdict over."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ctclip_client import Volume
from ctclip_client.cli.program import main
from ctclip_client.errors import InvalidInput
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server import EmbeddedTriton
from ctclip_server.releases.checks import ReleaseRefusedError, check_release
from ctclip_server.releases.ladder import (
    LadderRecord,
    LadderRefusedError,
    plans_of,
    read_ladder,
)
from ctclip_server.releases.members import read_members
from ctclip_server.releases.staging import take_in

from ..conftest import Golden
from .releases import Load, configs, copied, edit_record, known_answers, rename_release

Taken = Callable[[], tuple[int, list[str]]]
VISION = "ctclip_vision/1"


@pytest.fixture
def live(repository: Path, tmp_path: Path) -> Path:
    return copied(repository, tmp_path / "live")


@pytest.fixture
def candidate(repository: Path, tmp_path: Path) -> Path:
    return copied(repository, tmp_path / "candidate")


@pytest.fixture
def take(live: Path, candidate: Path) -> Taken:
    def run() -> tuple[int, list[str]]:
        said: list[str] = []
        taken = take_in(read_members(live), read_members(candidate), said.append)
        return taken.version, said

    return run


def name_of(repository: Path) -> str:
    path = repository / "ctclip_check" / "1" / "provenance.json"
    return str(json.loads(path.read_text())["release"]["release"])


def build(repository: Path, plan: bytes, capability: str = "8.0", scans: int = 11) -> None:
    """As `make gpu-check` leaves it: an engine, its record and warm-up, and a ladder passed."""
    folder = repository / VISION
    (folder / "model.plan").write_bytes(plan)
    record = {"compute_capability": capability, "tensorrt_version": "11.2.0"}
    (folder / "engine.json").write_text(json.dumps(record))
    (folder.parent / "warmup").mkdir(exist_ok=True)
    (folder.parent / "warmup" / "VOXELS").write_bytes(b"voxels")
    plans = plans_of(repository, "1")
    record = LadderRecord(name_of(repository), True, plans=plans, scans=scans)
    replace(record, engines_date=record.date).write(repository, "1")


def files(repository: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a repository: its inode, so that a replaced one is told, and its content."""
    return {
        str(path.relative_to(repository)): (path.stat().st_ino, path.read_bytes())
        for path in sorted(repository.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_new_engines_and_their_verdict_are_taken_over(
    live: Path, candidate: Path, take: Taken
) -> None:
    build(candidate, b"a plan")
    before = files(live)
    assert take() == (1, [])
    after = files(live)
    new = {f"{VISION}/{name}" for name in ("model.plan", "engine.json")}
    new |= {"ctclip_vision/warmup/VOXELS", "ctclip_check/1/ladder.json"}
    assert set(after) - set(before) == new
    assert {name: after[name] for name in before} == before
    for name in new - {"ctclip_check/1/ladder.json"}:
        assert after[name][1] == (candidate / name).read_bytes()
    check_release(read_members(live), 1)
    assert take() == (1, [])
    assert files(live) == after  # nothing is replaced by itself


def test_engines_of_a_new_release_come_with_their_warm_up(
    live: Path, candidate: Path, take: Taken
) -> None:
    rename_release(candidate, "another")
    build(candidate, b"a plan")
    assert take() == (2, [])
    assert (live / "ctclip_vision/2/model.plan").read_bytes() == b"a plan"
    assert (live / "ctclip_vision/warmup/VOXELS").read_bytes() == b"voxels"


def test_a_newer_engine_takes_the_place_of_an_older(
    live: Path, candidate: Path, take: Taken
) -> None:
    build(live, b"old")
    build(candidate, b"new")
    assert take() == (1, [])
    assert (live / VISION / "model.plan").read_bytes() == b"new"
    check_release(read_members(live), 1)


def test_an_older_engine_does_not(live: Path, candidate: Path, take: Taken) -> None:
    """As when the same promotion is repeated, and engines were built in its place meanwhile."""
    build(candidate, b"old")
    build(live, b"new")
    before = files(live)
    version, (said,) = take()
    assert version == 1
    assert "the engine of 'ctclip_vision' is older than the verdict on engines here" in said
    assert files(live) == before


def test_nor_after_a_climb_without_engines(live: Path, candidate: Path, take: Taken) -> None:
    build(candidate, b"old")
    build(live, b"new")
    earlier = read_ladder(live, 1)
    later = LadderRecord(name_of(live), True, scans=11)
    later.after(earlier, plans_of(live, "1"))[0].write(live, "1")
    before = files(live)
    assert len(take()[1]) == 1
    assert files(live) == before


def test_a_newer_pass_without_engines_keeps_none_out(
    live: Path, candidate: Path, take: Taken
) -> None:
    """As of `ctclip parity` on a CPU, which says nothing of engines."""
    build(candidate, b"a plan")
    LadderRecord(name_of(live), True, scans=11).write(live, "1")
    date = getattr(read_ladder(live, 1), "date", "")
    assert take() == (1, [])
    assert (live / VISION / "model.plan").read_bytes() == b"a plan"
    check_release(read_members(live), 1)
    record = read_ladder(live, 1)
    assert record is not None
    assert record.date == date > record.engines_date


def test_a_newer_failure_keeps_engines_out_and_says_so(
    live: Path, candidate: Path, take: Taken
) -> None:
    build(candidate, b"a plan")
    LadderRecord(name_of(live), False, ["served: NaN"], scans=11).write(live, "1")
    before = files(live)
    version, (said,) = take()
    assert version == 1
    assert "failed" in said
    assert "the engines of --from are not taken" in said
    assert files(live) == before


@pytest.mark.parametrize(
    ("error", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "x"), InvalidInput)],
)
@pytest.mark.parametrize("had_engine", [True, False])
def test_what_is_not_finished_leaves_what_was_there(
    error: BaseException,
    raised: type[BaseException],
    had_engine: bool,
    live: Path,
    candidate: Path,
    take: Taken,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine in the version that serves is never one that no ladder was climbed with."""
    if had_engine:
        build(live, b"old")
    build(candidate, b"new")
    before = files(live)

    def write(*_: object) -> None:
        assert (live / VISION / "model.plan").read_bytes() == b"new"
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(LadderRecord, "write", write)
        with pytest.raises(raised):
            take()
    assert files(live) == before
    assert take() == (1, [])
    assert set(files(live)) == set(before) | {
        f"{VISION}/model.plan", f"{VISION}/engine.json", "ctclip_vision/warmup/VOXELS",
        "ctclip_check/1/ladder.json",
    }  # fmt: skip


def test_a_link_to_an_engine_stays_and_never_leads_nowhere(
    live: Path, candidate: Path, take: Taken, tmp_path: Path
) -> None:
    build(live, b"old")
    build(candidate, b"new")
    plan, store = live / VISION / "model.plan", tmp_path / "store.plan"
    plan.rename(store)
    plan.symlink_to(store)
    assert take() == (1, [])
    assert plan.is_symlink()
    assert store.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    check_release(read_members(live), 1)


def test_an_older_verdict_on_engines_counts_as_of_its_date(
    live: Path, candidate: Path, take: Taken
) -> None:
    """`ladder.json` of before the date of engines was kept apart."""
    build(candidate, b"old")
    build(live, b"new")
    for repository in (candidate, live):
        path = repository / "ctclip_check" / "1" / "ladder.json"
        content = json.loads(path.read_text())
        del content["engines_date"]
        path.write_text(json.dumps(content))
    _, said = take()
    assert "is older than the verdict on engines here" in said[0]
    assert (live / VISION / "model.plan").read_bytes() == b"new"


def test_a_model_that_is_of_no_release_is_left_alone(
    live: Path, candidate: Path, take: Taken
) -> None:
    build(candidate, b"a plan")
    for file in ("1/model.plan", "warmup/INPUT", "config.pbtxt"):
        (candidate / "other" / file).parent.mkdir(parents=True, exist_ok=True)
        (candidate / "other" / file).write_text("")
    assert take() == (1, [])
    assert (live / VISION / "model.plan").read_bytes() == b"a plan"
    assert not (live / "other").exists()


def test_what_serves_keeps_engines_that_its_gpu_can_run(
    live: Path, candidate: Path, take: Taken
) -> None:
    build(live, b"for an A100")
    build(candidate, b"for an H100", "9.0")
    before = (live / VISION / "model.plan").read_bytes()
    (live / "ctclip_vision/warmup/VOXELS").unlink()
    version, (said,) = take()
    assert version == 1
    assert "'ctclip_vision'" in said
    assert "compute capability 9.0" in said
    assert "8.0" in said
    assert "ctclip build-engines" in said
    assert (live / VISION / "model.plan").read_bytes() == before
    assert not (live / "ctclip_vision/warmup/VOXELS").exists()
    check_release(read_members(live), 1)


def test_a_verdict_of_fewer_scans_lifts_no_failure(
    live: Path, candidate: Path, take: Taken
) -> None:
    LadderRecord(name_of(live), False, ["served: NaN"], scans=11).write(live, "1")
    build(candidate, b"a plan", scans=2)
    before = files(live)
    version, (said,) = take()
    assert "failed on 11 scans, this climb saw 2" in said
    assert files(live) == before
    with pytest.raises(LadderRefusedError, match="served: NaN"):
        check_release(read_members(live), version)
    build(candidate, b"a plan", scans=11)
    assert take() == (1, [])
    check_release(read_members(live), 1)


def test_an_older_pass_lifts_no_failure(live: Path, candidate: Path, take: Taken) -> None:
    LadderRecord(name_of(candidate), True, scans=11).write(candidate, "1")
    LadderRecord(name_of(live), False, ["served: NaN"], scans=11).write(live, "1")
    take()
    with pytest.raises(LadderRefusedError, match="served: NaN"):
        check_release(read_members(live), 1)


def test_a_verdict_of_before_dates_lifts_no_failure(
    live: Path, candidate: Path, take: Taken
) -> None:
    for repository, passed in ((candidate, True), (live, False)):
        record = LadderRecord(name_of(repository), passed, () if passed else ["served: NaN"])
        replace(record, date="").write(repository, "1")
    take()
    record = read_ladder(live, 1)
    assert record is not None
    assert not record.passed


def test_engines_that_passed_here_stay_known(live: Path, candidate: Path, take: Taken) -> None:
    build(live, b"a plan")
    LadderRecord(name_of(candidate), True, scans=11).write(candidate, "1")
    assert take() == (1, [])
    check_release(read_members(live), 1)


def test_other_models_under_the_same_name_are_refused(
    live: Path, candidate: Path, take: Taken
) -> None:
    build(candidate, b"a plan")
    edit_record(live, "ctclip_tokenizer", file_sha256="0" * 64)
    before = files(live)
    with pytest.raises(ReleaseRefusedError, match=r"'ctclip_tokenizer' has SHA-256 .* here"):
        take()
    assert files(live) == before


def test_what_cannot_take_its_place_leaves_no_part(
    live: Path, candidate: Path, take: Taken
) -> None:
    build(candidate, b"a plan")
    (live / VISION / "engine.json").mkdir()
    with pytest.raises(InvalidInput, match="cannot copy"):
        take()
    assert not [path for path in live.rglob("*") if ".part" in path.name]
    (live / VISION / "engine.json").rmdir()
    assert take() == (1, [])
    check_release(read_members(live), 1)


def test_what_serves_goes_on_serving(
    live: Path, candidate: Path, golden: Golden, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = chest_phantom(golden.geometry)
    volume = Volume.from_array(scan.voxels, scan.spacing_mm, scan.rescale)
    build(candidate, b"a plan")
    before = configs(live)
    command = ["promote", "--repository", str(live), "--from", str(candidate), "--url"]
    with EmbeddedTriton(live, model_control="explicit") as triton:
        known = known_answers(triton.grpc_url, volume)
        with Load(triton.grpc_url, volume) as load:
            load.more(10)
            assert main([*command, triton.grpc_url]) == 0
            load.more(10)
        load.check(known)
    assert "serves version 1" in (said := capsys.readouterr()).out
    assert "as before" in said.out
    assert "the server needs the memory of both" in said.err
    assert configs(live) == before
    assert (live / VISION / "model.plan").read_bytes() == b"a plan"


def test_engines_that_could_not_be_loaded_are_said_to_lie_there(
    live: Path, candidate: Path, server: EmbeddedTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    build(candidate, b"a plan")
    command = ["promote", "--repository", str(live), "--from", str(candidate), "--url"]
    assert main([*command, server.grpc_url]) == 4
    said = capsys.readouterr().err
    assert "On disk, though, version 1 has other engines now, of ctclip_vision" in said
    assert (live / VISION / "model.plan").read_bytes() == b"a plan"
