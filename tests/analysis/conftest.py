"""Predictions and labels in a folder, and `ctclip evaluate` on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctclip_client.cli.program import main

from .evaluation_files import (
    Files,
    Run,
    made,
    write_labels,
    write_long,
)

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sets of scans, each with predictions and labels, and a coarser answer to the first."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("valid", 21), ("train", 22)):
        files = made(seed, 40, split=name)
        write_labels(tmp_path / f"{name}.labels.csv", files)
        write_long(tmp_path / f"{name}.csv", files)
    files = made(21, 40)
    coarse = Files(files.names, files.labels, np.round(files.scores))
    write_long(tmp_path / "int8.csv", coarse, precision="int8", random_weights="true")
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: Printed) -> Run:
    def run(*more: str, name: str = "valid", code: int = 0) -> Any:
        given = [*(() if "--predictions" in more else ("--predictions", f"{name}.csv")),
                 *(() if "--labels" in more else ("--labels", f"{name}.labels.csv"))]  # fmt: skip
        capsys.readouterr()
        assert main(["evaluate", *given, *more]) == code
        out, err = capsys.readouterr()
        if code == 2:
            assert out == ""
            assert err.startswith("error: ")
            return err
        return json.loads(out) if "--json" in more else out

    return run
