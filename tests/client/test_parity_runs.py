"""The list of parity runs beside a release, and the rule of who may serve."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctclip_client.errors import Unreadable
from ctclip_client.release.parity_runs import (
    ParityRun,
    ParityStep,
    append_run,
    export_run,
    objection,
    read_runs,
)

from ..tiny_release import result, write_record

X, Y = {"ctclip_vision": "x" * 64}, {"ctclip_vision": "y" * 64}
PASSED = ParityRun(
    "r", True, (ParityStep("ONNX", "PASS", figures={"cosine": 1.0}),), scans=2, date="2026-11-26"
)
FAILED = replace(
    PASSED, passed=False, steps=(ParityStep("ONNX", "FAIL", "NaN"),), failures=("ONNX: NaN",)
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_record(tmp_path / "ctclip_check/1", file="model.py", parity=[])
    write_record(tmp_path / "shift/1")
    return tmp_path


def test_runs_are_kept_in_order_and_lines_are_never_changed(repository: Path) -> None:
    path = repository / "ctclip_check/1/parity_runs.jsonl"
    assert append_run(repository, 1, export_run(repository, 1))
    first = path.read_bytes()
    assert append_run(repository, 1, FAILED)
    assert append_run(repository, 1, replace(PASSED, engines=X))
    assert path.read_bytes().startswith(first)
    export, *others = read_runs(repository, 1)
    assert (export.passed, export.steps[0].figures) == (True, {"shift: Y": 1e-6})
    assert others == [FAILED, replace(PASSED, engines=X)]
    assert [path.name for path in path.parent.iterdir() if "part" in path.suffix] == []


def test_runs_that_end_together_are_all_kept(repository: Path) -> None:
    """Two parity checks of one release, a failed one among them."""
    runs = [replace(PASSED if n % 2 else FAILED, scans=n) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda run: append_run(repository, 1, run), runs))
    assert sorted(run.scans for run in read_runs(repository, 1)) == list(range(40))


def test_a_run_that_compared_nothing_is_not_kept(repository: Path) -> None:
    nothing = replace(PASSED, passed=False, steps=(ParityStep("ONNX", "NOT RUN", "no kernels"),))
    assert not append_run(repository, 1, nothing)
    assert not (repository / "ctclip_check/1/parity_runs.jsonl").exists()


def test_figures_that_json_has_no_number_for_become_null(repository: Path) -> None:
    step = ParityStep("ONNX", "FAIL", "NaN", {"cosine": float("nan")})
    append_run(repository, 1, replace(FAILED, steps=(step,)))
    assert read_runs(repository, 1)[-1].steps[0].figures == {"cosine": None}


def test_without_a_list_the_exports_results_count_as_its_run(repository: Path) -> None:
    (run,) = read_runs(repository, 1)
    assert (run.passed, run.steps[0].name, run.date) == (True, "export", "")
    write_record(repository / "shift/1", parity=[result(measured=1.0)])
    (run,) = read_runs(repository, 1)
    assert objection([run], {}).startswith(
        "its newest parity run failed: shift: Y: 1.0e+00, allowed 1.0e-04"
    )


def test_an_old_ladder_json_is_the_run_before_the_list(repository: Path) -> None:
    old = {"release": "r", "passed": False, "failures": ["a: NaN"], "ran": ["a"], "failed": ["a"],
           "plans": X, "scans": 3, "engines_date": "2026"}  # fmt: skip
    (repository / "ctclip_check/1/ladder.json").write_text(json.dumps(old))
    (run,) = read_runs(repository, 1)
    assert (run.passed, run.failures, run.engines, run.scans) == (False, ("a: NaN",), X, 3)
    assert run.steps == (ParityStep("a", "FAIL"),)
    append_run(repository, 1, PASSED)
    assert read_runs(repository, 1) == (run, PASSED)


def test_runs_of_another_release_say_nothing(repository: Path) -> None:
    append_run(repository, 1, replace(FAILED, release="another"))
    assert [run.steps[0].name for run in read_runs(repository, 1)] == ["export"]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("[]", "got [], expected an object"),
        ('{"passed": true', "Expecting"),  # half a line
        ({"passed": "yes"}, 'passed: got "yes", expected true or false'),
        ({"scans": True}, "scans: got true, expected a whole number"),
        ({"steps": [{"name": "a", "verdict": 1}]}, "steps[0].verdict: got 1, expected text"),
    ],
)
def test_a_damaged_line_is_named_and_stays(change: Any, wrong: str, repository: Path) -> None:
    append_run(repository, 1, PASSED)
    path = repository / "ctclip_check/1/parity_runs.jsonl"
    line = change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change)
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    for use in (
        lambda: read_runs(repository, 1),
        lambda: append_run(repository, 1, PASSED),
    ):
        with pytest.raises(Unreadable) as caught:
            use()
        assert f"{path} is damaged: line 2: {wrong}" in caught.value.cause
    assert path.read_bytes() == before


def test_a_damaged_ladder_json_is_no_pass(repository: Path) -> None:
    path = repository / "ctclip_check/1/ladder.json"
    path.write_text('{"release": "r", "passed": 1}')
    with pytest.raises(Unreadable, match="is damaged: passed: got 1, expected true or false"):
        read_runs(repository, 1)


def test_a_list_that_cannot_be_written_is_as_before(repository: Path) -> None:
    folder = repository / "ctclip_check/1"
    (folder / "parity_runs.jsonl").mkdir()
    before = sorted(folder.iterdir())
    with pytest.raises((OSError, Unreadable)):
        append_run(repository, 1, PASSED)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("runs", "engines", "reason"),
    [
        ([], {}, "never compared"),
        ([PASSED], {}, ""),
        ([FAILED], {}, "newest parity run failed: ONNX: NaN"),
        ([FAILED, PASSED], {}, ""),
        ([PASSED, FAILED], {}, "newest parity run failed"),
        ([PASSED], X, "engine of 'ctclip_vision' was never compared"),
        ([replace(PASSED, engines=X)], X, ""),
        ([replace(PASSED, engines=X), PASSED], X, ""),
        ([replace(PASSED, engines=X)], Y, "engine of 'ctclip_vision' was never compared"),
        ([replace(FAILED, engines=X), PASSED], X, "took part in a failed parity run"),
        ([replace(PASSED, engines=X), replace(FAILED, engines=X), PASSED], X, "in none since"),
        ([replace(FAILED, engines=X), replace(PASSED, engines=X)], X, ""),
        ([replace(PASSED, engines=X), FAILED, PASSED], X, ""),
        ([replace(PASSED, engines=X), replace(FAILED, engines=Y), PASSED], X, ""),
    ],
)
def test_who_may_serve(runs: list[ParityRun], engines: dict[str, str], reason: str) -> None:
    said = objection(runs, engines)
    assert bool(said) == bool(reason)
    assert reason in said
