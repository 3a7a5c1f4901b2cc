"""The pages' tables of measurements are those of the kept results, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from ctclip_bench.results import files
from ctclip_bench.results.result import FORMAT, Parity, Result, Row, Times

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "measured_tables", ROOT / "scripts" / "measured_tables.py"
)
assert _spec is not None
assert _spec.loader is not None
measured_tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(measured_tables)


def test_the_pages_say_what_was_kept() -> None:
    measured_tables.main(["--check"])


def test_every_kept_result_passed_and_shows_parity() -> None:
    kept = [
        path for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
        if json.loads(path.read_text()).get("format") == FORMAT
    ]  # fmt: skip
    assert kept
    for path in kept:
        result = files.read(path)
        assert result.passed, path.name
        assert all(each.verdict == "PASS" for each in result.verdicts), path.name
        for row in result.rows:
            if row.times_ms is not None and result.kind != "gpu":
                assert row.parity is not None, (path.name, row.name)
                assert row.parity.verdict == "PASS", (path.name, row.name)


def test_a_table_takes_the_newest_that_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(
        "vision", "ONNX Runtime", {"precision": "fp32"}, Times.of([2900.0]),
        Parity("PASS", "PyTorch", 1.0, 1.0, 1e-6), {"share_of_limit": 0.5},
    )  # fmt: skip
    machine = {"processor": "X", "cores": 2}
    for date, passed, time in (("2026-01-01", True, 1.0), ("2026-01-02", True, 3000.0),
                               ("2026-01-03", False, 9.0)):  # fmt: skip
        rows = (Row(row.table, row.name, row.settings, Times.of([time]), row.parity),
                Row("vision", "TensorRT", not_run="none"))  # fmt: skip
        files.keep(
            Result("graphs", passed, {}, {"device": "cpu"}, rows, machine=machine, date=date),
            tmp_path,
        )
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- measured: graphs -->\nold\n<!-- end -->\n<!-- measured: file -->\n"
                    "<!-- end -->\nz\n")  # fmt: skip
    monkeypatch.setattr(measured_tables, "RESULTS", tmp_path)
    monkeypatch.setattr(measured_tables, "PAGES", (page,))
    with pytest.raises(SystemExit, match="stale"):
        measured_tables.main(["--check"])
    measured_tables.main([])
    measured_tables.main(["--check"])
    text = page.read_text()
    assert "| 3,000 |" in text
    assert "2026-01-02" in text
    assert "TensorRT" not in text
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].count("|") > 6
    assert "old" not in text
    assert re.search(r"<!-- measured: file -->\nNot measured yet\.\n<!-- end -->", text)
