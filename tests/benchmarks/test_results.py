"""Kept results: read back as written, drawn, compared; nothing of a scan's name in a page."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ctclip_bench.graphs.ceilings import Ceilings
from ctclip_bench.graphs.counts import Count
from ctclip_bench.graphs.roofline import ceiling_rows, limit_of, roofline_row
from ctclip_bench.machine import describe_machine
from ctclip_bench.results import files
from ctclip_bench.results.cells import cells, markdown
from ctclip_bench.results.compare import Change, compare
from ctclip_bench.results.page import page
from ctclip_bench.results.result import Parity, Result, Row, Times
from ctclip_client.cli.program import main

GOOD = Parity("PASS", "PyTorch", codes_agree=0.9999, cosine=0.999995, logit_difference=1e-6)
TIMES = Times.of([100.0, 101, 102, 103, 110])
MACHINE = {"processor": "AMD EPYC <x>", "cores": 2, "gpu": None, "memory_gib": 24}


def test_the_load_is_that_before_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_machine()["load_before"]
    monkeypatch.setattr(os, "getloadavg", lambda: (before + 50, 0.0, 0.0))
    assert describe_machine()["load_before"] == before


WHOLE = {
    "format": 3, "kind": "graphs", "passed": True, "subject": {}, "plan": {}, "rows": [],
    "verdicts": [], "notes": [], "machine": MACHINE, "date": "2026-01-01",
}  # fmt: skip


def result(*rows: Row, **more: object) -> Result:
    given = {"kind": "graphs", "passed": True, "subject": {"random_weights": True}, "plan": {}}
    return Result(**{**given, "rows": rows, "machine": MACHINE, **more})  # type: ignore[arg-type]


CEILINGS = Ceilings("cpu", 2048, {"fp32": 1.2e11, "bf16": 4e11}, 2e10, {}, {})
COUNT = Count({"fp32": 7.2e11}, 0.0, 0.0, 9e8, 2e9)
LIMIT = limit_of(COUNT, CEILINGS.products, CEILINGS.copy)

ROWS = (
    Row("vision", "ONNX Runtime", {"precision": "fp32"}, TIMES, GOOD,
        {"share_of_limit": 0.8, "log": {"deep": 1}}),
    Row("vision", "TensorRT", not_run="no <GPU>"),
    *(roofline_row("vision", "fp32", COUNT, device, LIMIT)
      for device in ("this cpu, by its measured ceilings", "A100 datasheet (bound)")),
    *ceiling_rows(CEILINGS),
    Row("stages", "read", times_ms=TIMES),
    Row("clients", "4 clients", {"clients": 4}, TIMES, figures={"scans_per_s": 0.3}),
    Row("slices", "64", {"slices": 64}, TIMES),
    Row("slices", "300", {"slices": 300}, TIMES),
)  # fmt: skip


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    kept = result(*ROWS, verdicts=(GOOD,), notes=("quiet",))
    path = files.keep(kept, tmp_path)
    assert files.read(path) == kept
    again = files.keep(kept, tmp_path)
    assert again.name == f"{path.stem}-2.json"
    failed = replace(kept, passed=False)
    assert files.file_name(failed).endswith("-FAILED.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "it is no JSON"),
        ("[]", "format list, expected 3"),
        ('{"format": 2}', "format 2, expected 3"),
        ('{"format": 3, "rows": [{"table": "a"}], "verdicts": []}', "no whole result"),
        ('{"format": 3, "rows": 1}', "no whole result"),
        *(
            (json.dumps({**WHOLE, name: value}), "no whole result")
            for name, value in (
                ("date", 5),
                ("machine", []),
                ("rows", [{"table": "a", "name": "b", "figures": [1]}]),
                ("rows", [{"table": "a", "name": ["b"]}]),
                ("rows", [{"table": "a", "name": "b", "times_ms": {"n": "x"}}]),
            )
        ),
    ],
)
def test_another_file_is_refused(
    tmp_path: Path, text: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    for command in (["report", str(path)], ["compare", str(path), str(path)]):
        assert main(["bench", *command]) == 2
        assert said in capfd.readouterr().err


def test_a_page_shows_all_of_it_and_runs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files.keep(result(*ROWS, verdicts=(GOOD,), date="2026-01-01"), tmp_path)
    files.keep(result(*ROWS, verdicts=(GOOD,), date="2026-01-02"), tmp_path)
    (tmp_path / "parity.json").write_text(json.dumps({"passed": True, "rungs": []}))
    out = tmp_path / "bench.html"
    assert main(["bench", "report", str(tmp_path), "--out", str(out)]) == 0
    assert str(out) in capfd.readouterr().out
    text = out.read_text()
    assert text.count("<section") == 1, "of the same measurement the newest alone"
    assert "2026-01-02" in text
    for title in ("Latency by stage", "Vision graph", "Roofline", "Throughput against p99",
                  "Cost by slices", "Cost by clients"):  # fmt: skip
        assert f"<h3>{title}</h3><svg" in text
    assert "limit of this machine: 6000 ms" in text
    assert "<x>" not in text
    assert "AMD EPYC &lt;x&gt;" in text
    assert "no &lt;GPU&gt;" in text
    assert "RANDOM WEIGHTS" in text
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org", "").replace("https://matplotlib.org", "")
    assert "Parity <b>PASS</b> against PyTorch" in page([("a", files.read(tmp_path / next(
        path.name for path in tmp_path.glob("*graphs*.json"))))])  # fmt: skip


def test_no_result_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "report", str(tmp_path), "--out", str(tmp_path / "a.html")]) == 2
    assert "no result of ctclip bench" in capfd.readouterr().err
    assert not (tmp_path / "a.html").exists()


def changed(after: Row, before: Row = ROWS[0]) -> list[str]:
    return [change.verdict for change in compare(result(before), result(after))]


def test_what_got_slower_beyond_the_noise() -> None:
    row = ROWS[0]

    def at(factor: float) -> Row:
        return replace(row, times_ms=Times.of([value * factor for value in (100, 101, 102, 110)]))

    assert changed(at(1.0)) == ["same"]
    assert changed(at(1.04)) == ["same"]
    assert changed(at(1.3)) == ["slower"]
    assert changed(at(0.8)) == ["faster"]
    noisy = replace(row, times_ms=Times.of([90.0, 130, 150, 300]))
    assert changed(noisy) == ["same"], "its least is less: the machine was busy"
    assert changed(replace(row, parity=replace(GOOD, verdict="FAIL"))) == ["wrong", "same"]
    assert changed(replace(row, parity=None)) == ["wrong", "same"]
    assert changed(replace(row, not_run="no GPU", times_ms=None)) == ["gone"]
    assert changed(replace(row, name="OpenVINO")) == ["gone", "new"]
    assert changed(replace(row, settings={"precision": "bf16"})) == ["gone", "new"]
    rate = next(each for each in ROWS if "scans_per_s" in each.figures)
    one = replace(row, times_ms=Times.of([100.0]))
    assert changed(replace(row, times_ms=Times.of([900.0])), one) == ["too few"]
    slower = replace(rate, figures={"scans_per_s": 0.2})
    assert changed(slower, rate) == ["same", "slower"]
    assert Change("a", "b", "same", before=2.0, after=3.0).ratio == 1.5


def test_the_comparison_says_its_verdict_and_its_machines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slow = replace(ROWS[0], times_ms=Times.of([200.0, 201, 202]))
    first = str(files.keep(result(*ROWS), tmp_path))
    other = {**MACHINE, "processor": "Xeon"}
    second = str(files.keep(result(slow, *ROWS[1:], machine=other), tmp_path))
    assert main(["bench", "compare", first, first]) == 0
    assert "Nothing changed beyond the noise." in capfd.readouterr().out
    assert main(["bench", "compare", first, second]) == 1
    told = capfd.readouterr().out
    assert "Not the same: processor: AMD EPYC <x> → Xeon" in told
    assert "1 slower" in told
    assert main(["bench", "compare", second, first, "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert [row["verdict"] for row in content["changes"] if row["verdict"] != "same"] == ["faster"]
    serve = str(files.keep(result(kind="serve"), tmp_path))
    assert main(["bench", "compare", first, serve]) == 2
    assert "one result is of 'graphs', the other of 'serve'" in capfd.readouterr().err


def test_a_table_in_markdown() -> None:
    text = markdown([cells(row) for row in ROWS[:2]])
    assert text.splitlines()[1].startswith("|---|---|---:|")
    assert "| 0.8 |" in text
    assert "no <GPU>" in text
