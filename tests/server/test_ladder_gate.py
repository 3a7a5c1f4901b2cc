"""A release whose ladder failed, or an engine that no ladder was climbed with, never serves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

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
        (NAMED | {"scans": True}, "scans: got true, expected a whole number"),
        (NAMED | {"scans": 1.5}, "scans: got 1.5, expected a whole number"),
        (NAMED | {"failed_plans": None}, "failed_plans: got null, expected an object of texts"),
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


# --- what a later climb may say of an earlier one ---

A, B = ("a",), ("b",)
X, Y = {"ctclip_vision": "x" * 64}, {"ctclip_vision": "y" * 64}


def verdict(passed: bool, scans: int, **more: Any) -> LadderRecord:
    failures = () if passed else (f"rung {scans}",)
    return LadderRecord("r", passed, more.pop("failures", failures), scans=scans, **more)


@pytest.mark.parametrize(
    ("earlier", "later", "present", "reason"),
    [
        (verdict(False, 11), verdict(True, 11), {}, ""),
        (verdict(False, 11), verdict(True, 10), {}, "failed on 11 scans, this climb saw 10"),
        (verdict(False, 11), verdict(False, 10), {}, "at least 11 scans"),
        (verdict(True, 11), verdict(False, 1), {}, ""),
        (verdict(True, 11), verdict(True, 1), {}, ""),
        # A record of before scans were counted.
        (verdict(False, 0), verdict(True, 1), {}, ""),
        (verdict(False, 2, reference=True), verdict(True, 9), {}, "--against CHECKPOINT"),
        (verdict(False, 2, reference=True), verdict(True, 2, reference=True), {}, ""),
        (verdict(False, 2, failed_plans=X), verdict(True, 2), X, "with the engines that lie there"),
        (verdict(False, 2, failed_plans=X), verdict(True, 2, plans=X), X, ""),
        (verdict(False, 2, failed_plans=X), verdict(True, 2), {}, ""),
        (verdict(False, 2, failed_plans=X), verdict(True, 2), Y, ""),
        (verdict(False, 2, failed=A), verdict(True, 9, ran=B), {}, "in 'a', which did not run"),
        (verdict(False, 2, failed=A), verdict(False, 9, ran=B), {}, "with 'a' among the rungs"),
        (verdict(False, 2, failed=A), verdict(True, 2, ran=A + B), {}, ""),
        (verdict(False, 2), verdict(True, 11, sample=True), {}, "of your own (--scans DIR)"),
        (verdict(False, 2), verdict(True, 2), {}, ""),
        (verdict(False, 2, sample=True), verdict(True, 2), {}, ""),
        (verdict(False, 2, sample=True), verdict(True, 2, sample=True), {}, ""),
    ],
)
def test_a_failure_stays_until_a_climb_saw_as_much(
    earlier: LadderRecord, later: LadderRecord, present: dict[str, str], reason: str
) -> None:
    kept, said = later.after(earlier, present)
    assert bool(said) == bool(reason)
    assert reason in said
    assert kept.passed == (earlier if reason else later).passed


def test_two_failures_are_both_remembered() -> None:
    earlier = verdict(False, 11, sample=True, failed=A, engines_date="2026")
    later = verdict(False, 2, reference=True, failed_plans=X, failed=B, ran=B, engines_date="2027")
    kept, _ = later.after(earlier, X)
    assert kept.failures == ("rung 11", "rung 2")
    assert (kept.scans, kept.reference, kept.failed_plans) == (11, True, X)
    assert (kept.failed, kept.has_own_scans, kept.engines_date) == (A + B, True, "2027")


def test_a_climb_without_engines_keeps_the_date_of_the_last_with_them() -> None:
    kept, _ = verdict(True, 2).after(verdict(True, 2, plans=X, engines_date="2026"), X)
    assert kept.engines_date == "2026"


@pytest.mark.parametrize(
    ("later", "present", "plans"),
    [
        (verdict(True, 2), X, X),
        (verdict(False, 2), X, X),
        (verdict(True, 2), Y, {}),
        (verdict(True, 2, plans=Y), Y, Y),
        (verdict(False, 2, failed_plans=X), X, {}),
    ],
)
def test_engines_that_passed_and_lie_there_still_have_passed(
    later: LadderRecord, present: dict[str, str], plans: dict[str, str]
) -> None:
    kept, _ = later.after(verdict(True, 2, plans=X), present)
    assert kept.plans == plans


def test_engines_that_failed_do_not_pass_on_fewer_scans() -> None:
    kept, said = verdict(True, 1, plans=X).after(verdict(False, 11, failed_plans=X), X)
    assert said
    assert (kept.passed, kept.plans) == (False, {})


def test_another_release_has_no_say() -> None:
    later = LadderRecord("other", True, scans=1)
    assert later.after(verdict(False, 11, plans=X), X) == (later, "")
    assert later.after(None, X) == (later, "")


def test_the_gate_says_how_many_scans_it_takes(release: Path) -> None:
    LadderRecord(name_of(release), False, ["x"], scans=11, reference=True).write(release, "1")
    with pytest.raises(LadderRefusedError) as caught:
        check(release)
    assert (
        "on at least 11 scans of your own (--scans DIR), against the checkpoint"
        in caught.value.remedy
    )
    LadderRecord(name_of(release), False).write(release, "1")
    with pytest.raises(LadderRefusedError, match="no rung of it could run"):
        check(release)
