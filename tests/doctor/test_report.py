"""What a report says, to a script and to a person."""

from __future__ import annotations

import io
import json

import pytest

from ctclip_client.doctor import FORMAT, Report, Verdict
from ctclip_client.doctor.render import printable, render
from ctclip_client.doctor.report import failed, not_run, passed, warned

REMEDY = "Do something."


def report(*checks):
    return Report("ct", "scan.nii", "a CT file", checks)


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ((), Verdict.PASS),
        ((passed("a", "x"), not_run("b", "y")), Verdict.PASS),
        ((passed("a", "x"), warned("b", "y", REMEDY)), Verdict.WARN),
        ((failed("a", "x", REMEDY), warned("b", "y", REMEDY)), Verdict.FAIL),
    ],
)
def test_the_worst_check_decides(checks, verdict):
    assert report(*checks).verdict is verdict


def test_json_has_stable_keys_and_numbers_that_are_numbers():
    found = report(passed("grid", "x", "here", size=3, edges=(1.5, float("nan")))).to_json()
    content = json.loads(json.dumps(found, allow_nan=False))
    assert content == {
        "format": FORMAT,
        "kind": "ct",
        "target": "scan.nii",
        "recognised_as": "a CT file",
        "verdict": "PASS",
        "counts": {"PASS": 1, "WARN": 0, "FAIL": 0, "NOT RUN": 0},
        "checks": [
            {
                "name": "grid",
                "about": "here",
                "verdict": "PASS",
                "detail": "x",
                "remedy": "",
                "values": {"size": 3, "edges": [1.5, None]},
            }
        ],
    }


def rendered(*checks):
    out = io.StringIO()
    render(report(*checks), out)
    return out.getvalue().splitlines()


def test_alike_passes_share_a_line_and_failures_never_do():
    alike = [passed("file", "there", f"model/{n}") for n in range(3)]
    bad = [failed("file", "gone", REMEDY, f"other/{n}") for n in range(3)]
    lines = rendered(*alike, *bad)
    assert lines[1] == "PASS     file: there (model/0, model/1, model/2)"
    assert [line for line in lines if line.startswith("FAIL ")] == [
        f"FAIL     file other/{n}: gone" for n in range(3)
    ]
    assert lines.count(f"         → {REMEDY}") == 3
    assert lines[-1] == "FAIL: 3 PASS, 3 FAIL"


def test_the_health_check_keeps_its_name_for_scripts():
    check = passed("canary", "x", "ctclip_explain")
    assert report(check).to_json()["checks"][0]["name"] == "canary"
    assert rendered(check)[1] == "PASS     health check ctclip_explain: x"


def test_nothing_in_a_file_steers_the_terminal():
    assert printable("a\x1b[2Jb\nc\udcff") == "a\\x1b[2Jb\\x0ac\\xdcff"
    assert rendered(passed("a", "[red]x[/red] :smile: \x1b]0;t\x07"))[1] == (
        "PASS     a: [red]x[/red] :smile: \\x1b]0;t\\x07"
    )
