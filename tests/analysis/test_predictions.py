"""Predictions: every form of the file says the same, and what cannot be right is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from ctclip_analysis.predictions import Origin, Predictions, read_predictions
from ctclip_client.batch.tables import write_csv, write_scores_parquet
from ctclip_client.errors import InvalidInput, Unreadable

from .evaluation_files import FINDINGS, made, write_long, write_wide

ORIGIN = Origin("r1", "c.pt", "fp16", random_weights=True)


def journal_row(path: str, *probabilities: float, **more: Any) -> dict[str, Any]:
    """As `ctclip predict --jsonl` writes a scan (the fields that are read, and some more)."""
    return {
        "path": path, "series": None, "sha256": "0", "release": "r1",
        "findings": [
            {"finding": name, "probability": value, "logit_present": 1.0, "logit_absent": 0.0}
            for name, value in zip(FINDINGS, probabilities, strict=False)
        ],
        "provenance": {"release": "r1", "precision": "fp16",
                       "checkpoint": {"name": "c.pt", "random_weights": True}},
        "recipe": {
            "orientation": "LPS", "turned": "", "spacing_source": "file", "hu_source": "file",
            "spacing_mm": [1.5, 0.75, 0.75], "rescale": [1.0, 0.0], "hu_percentiles": {},
            "seen_mm": {}, "notes": [],
        },
        "asked": "x", **more,
    }  # fmt: skip


def failed_row(path: str) -> dict[str, Any]:
    return {"path": path, "series": None, "release": None, "asked": "x",
            "error": {"kind": "Unreadable", "cause": "c", "remedy": "r"}}  # fmt: skip


ROWS = [journal_row("/d/a.nii", 0.1, 0.2, 0.3), journal_row("/d/b.nii", 0.9, 0.25, 1.0)]


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def csv(path: Path) -> Path:
    write_csv(path, ROWS)
    return path


def parquet(path: Path) -> Path:
    write_scores_parquet(path, ROWS)
    return path


@pytest.mark.parametrize("write", [csv, parquet, lambda path: jsonl(path, *ROWS)])
def test_all_that_predict_writes_says_the_same(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = read_predictions(write(tmp_path / "predictions"))
    assert found.scans == ("/d/a.nii", "/d/b.nii")
    assert (found.findings, found.origin) == (FINDINGS, ORIGIN)
    assert found.probabilities.tolist() == [[0.1, 0.2, 0.3], [0.9, 0.25, 1.0]]
    assert (found.failed, found.replaced) == ((), 0)


def test_a_wide_table_of_another_program(tmp_path: Path) -> None:
    files = made(1)
    found = read_predictions(write_wide(tmp_path / "p.csv", files))
    assert found.scans == tuple(f"/data/{name}" for name in files.names)
    assert (found.findings, found.origin) == (FINDINGS, Origin())
    np.testing.assert_array_equal(found.probabilities, files.scores)
    long = read_predictions(write_long(tmp_path / "l.csv", files))
    np.testing.assert_array_equal(long.probabilities, files.scores)
    assert long.origin == Origin("r1", "c.pt", "fp32", random_weights=False)


def test_scans_that_failed_are_kept_and_later_rows_count(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "j.jsonl", failed_row("/d/c.nii"), failed_row("/d/a.nii"), *ROWS,
        journal_row("/d/b.nii", 0.5, 0.5, 0.5),
    )  # fmt: skip
    found = read_predictions(path)
    assert found.failed == (("/d/c.nii", "Unreadable"),)
    assert dict(zip(found.scans, found.probabilities[:, 0], strict=True)) == {
        "/d/a.nii": 0.1, "/d/b.nii": 0.5,
    }  # fmt: skip
    assert found.replaced == 2


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROWS[0].items() if key != name}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([journal_row("a", 0.1, 0.2)], None),
        ([*ROWS, journal_row("c", 0.1, 0.2)], "'c' and the first scan have different findings"),
        ([journal_row("a", 1.2, 0, 0)], "line|row 1, 'Cardiomegaly': got 1.2, expected a prob"),
        ([journal_row("a", float("nan"), 0, 0)], "got nan"),
        ([journal_row("a", 10**400, 0, 0)], "got 1000"),
        ([journal_row("a")], "no finding"),
        ([without("asked"), without("asked")], "line 2: '/d/a.nii' is there twice"),
        ([failed_row("a")], r"no scan with a result \(1 failed\)"),
        ([without("findings")], "line 1 is no row of ctclip predict"),
        ([without("provenance")], "line 1 is no row of ctclip predict"),
        (
            [*ROWS, {**journal_row("c", 0, 0, 0), "provenance": {
                "release": "r2", "precision": "int8",
                "checkpoint": {"name": "c.pt", "random_weights": True}}}],
            r"row 3 is of another release \(r2, int8\)",
        ),
    ],
)  # fmt: skip
def test_journals_that_cannot_be_right(
    rows: list[dict[str, Any]], message: str | None, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "j.jsonl", *rows)
    if message is None:
        assert read_predictions(path).findings == FINDINGS[:2]
        return
    with pytest.raises(InvalidInput, match=message):
        read_predictions(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,finding,probability\na,F,0.1\na,F,0.1\n", "row 3: 'a' has 'F' twice"),
        ("path,finding,probability\na,F,0.1\nb,G,0.1\n", "different findings: 'F'"),
        ("path,finding,probability\na,F,x\n", "row 2, 'F': got 'x'"),
        ("scan,F\na,0.5\na,0.5\n", "row 3: 'a' is there twice"),
        ("scan,F\n,0.5\n", "row 2: the scan has no name"),
        ("scan,F\na,\n", "row 2, 'F': got ''"),
        ("scan,F\na,-0.1\n", "got '-0.1'"),
        ("scan,F\na,inf\n", "got 'inf'"),
        ("scan,F\na\n", "row 2 has 1 cell, the header has 2"),
        ("scan,F,F\na,1,1\n", "column 'F' twice"),
        ("scan,F\n", "no scan with a result"),
        ("", "no table of predictions"),
        ("PAR1", "not Parquet"),
        ('{"path": 1', "line 1 is no JSON"),
        ('[{"path": 1, "path": 1}]', "line 1 is no JSON object"),
        ("\0\1,b\n", "no table"),
        (",scan,F\n0,a,0.5\n", "'scan': got 'a'.*no others"),
        ("scan;F\na;0,5\n", "'F': got '0,5'.*decimals have a point"),
        ("scan,F\na,0.5\n".encode("utf-16"), "no UTF-8"),
    ],
)
def test_files_that_cannot_be_right(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidInput, match=message):
        read_predictions(path)


@pytest.mark.parametrize(
    ("column", "cells"),
    [("release", [["r1"]]), ("path", [None]), ("path", [7]), ("finding", [["F"]])],
)
def test_parquet_of_another_schema(column: str, cells: list[Any], tmp_path: Path) -> None:
    columns = {"path": ["a"], "finding": ["F"], "probability": [0.5], column: cells}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "p.parquet")
    with pytest.raises(Unreadable, match=f"row 1: '{column}' is no text"):
        read_predictions(tmp_path / "p.parquet")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"--against: .*absent"):
        read_predictions(tmp_path / "absent", "--against")


def test_the_same_scan_may_have_two_series(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "series": uid} for uid in ("1.2", "1.3")]
    found: Predictions = read_predictions(jsonl(tmp_path / "j", *rows))
    assert found.scans == ("/d/a.nii", "/d/a.nii")
