"""A release whose ladder failed, or an engine that no ladder was climbed with, never serves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ctclip_server.releases.checks import check_release
from ctclip_server.releases.ladder import LadderRecord, LadderRefusedError, plans_of
from ctclip_server.releases.members import read_members
from ctclip_server.releases.staging import take_in

from .releases import copied


@pytest.fixture
def release(repository: Path, tmp_path: Path) -> Path:
    return copied(repository, tmp_path / "release")


def name_of(repository: Path) -> str:
    path = repository / "ctclip_check" / "1" / "provenance.json"
    return str(json.loads(path.read_text())["release"]["release"])


def check(repository: Path) -> None:
    check_release(read_members(repository), 1)


def test_the_exports_own_comparisons_let_it_in(release: Path) -> None:
    check(release)


def test_a_failed_ladder_keeps_it_out_until_one_passes(release: Path) -> None:
    name = name_of(release)
    LadderRecord(name, False, ["ONNX fp16: cosine 0.9"]).write(release, "1")
    with pytest.raises(LadderRefusedError) as caught:
        check(release)
    assert "version 1 failed its ladder: ONNX fp16: cosine 0.9." in caught.value.cause
    assert caught.value.exit_code == 1
    LadderRecord(name, True).write(release, "1")
    check(release)


def test_a_failed_release_is_not_taken_in_either(
    release: Path, repository: Path, tmp_path: Path
) -> None:
    LadderRecord(name_of(release), False, ["served: NaN"]).write(release, "1")
    live = copied(repository, tmp_path / "live")
    before = sorted(live.rglob("*"))
    with pytest.raises(LadderRefusedError, match="failed its ladder: served: NaN"):
        take_in(read_members(live), read_members(release))
    assert sorted(live.rglob("*")) == before


def test_the_ladder_of_another_release_says_nothing(release: Path) -> None:
    LadderRecord("another", False, ["x"]).write(release, "1")
    check(release)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"release": 1}', '{"passed": true, "more": 2}'])
def test_a_damaged_record_is_no_pass(text: str, release: Path) -> None:
    (release / "ctclip_check" / "1" / "ladder.json").write_text(text)
    with pytest.raises(LadderRefusedError, match=r"ladder\.json is damaged"):
        check(release)


NAMED = {"release": "r", "passed": True}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "got [], expected an object"),
        (None, "got null, expected an object"),
        ({"passed": True}, "release: it is missing, expected text"),
        (NAMED | {"release": 1}, "release: got 1, expected text"),
        (NAMED | {"passed": "yes"}, 'passed: got "yes", expected true or false'),
        (NAMED | {"plans": None}, "plans: got null, expected an object of texts"),
        (NAMED | {"plans": ["x"]}, 'plans: got ["x"], expected an object of texts'),
        (NAMED | {"plans": {"v": 5}}, 'plans: got {"v": 5}, expected an object of texts'),
        (NAMED | {"failures": "one"}, 'failures: got "one", expected a list of texts'),
        (NAMED | {"failures": [None]}, "failures: got [null], expected a list of texts"),
        (NAMED | {"more": 2}, "more: nothing is known of such a field"),
    ],
)
def test_a_wrong_field_is_named(content: object, complaint: str, release: Path) -> None:
    path = release / "ctclip_check" / "1" / "ladder.json"
    path.write_text(json.dumps(content))
    with pytest.raises(LadderRefusedError) as caught:
        check(release)
    assert str(path) in caught.value.cause
    assert f"is damaged: {complaint}" in caught.value.cause
    assert "ctclip parity" in caught.value.remedy


def test_a_record_that_cannot_be_written_leaves_nothing(release: Path) -> None:
    folder = release / "ctclip_check" / "1"
    (folder / "ladder.json").mkdir()
    before = sorted(folder.iterdir())
    with pytest.raises(OSError, match="irectory"):
        LadderRecord(name_of(release), True).write(release, "1")
    assert sorted(folder.iterdir()) == before


def test_an_engine_serves_only_after_a_ladder_with_that_very_engine(release: Path) -> None:
    name, plan = name_of(release), release / "ctclip_vision" / "1" / "model.plan"
    plan.write_bytes(b"a plan")
    with pytest.raises(LadderRefusedError, match=r"engine of 'ctclip_vision' version 1 was never"):
        check(release)
    LadderRecord(name, True).write(release, "1")  # climbed without engines
    with pytest.raises(LadderRefusedError, match="was never compared"):
        check(release)
    assert plans_of(release, "1") == {"ctclip_vision": hashlib.sha256(b"a plan").hexdigest()}
    LadderRecord(name, True, plans=plans_of(release, "1")).write(release, "1")
    check(release)
    plan.write_bytes(b"another plan")
    with pytest.raises(LadderRefusedError, match="was never compared"):
        check(release)
