"""A run over many scans, and what may happen to its server and to itself meanwhile."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctclip_client.cli.program import main
from ctclip_server.embedded.server import EmbeddedTriton

COUNT = 50
CTCLIP = [sys.executable, "-W", "error", "-m", "ctclip_client"]


@pytest.fixture
def scans(phantoms: Path, tmp_path: Path) -> Path:
    """A folder of 50 scans."""
    folder = tmp_path / "scans"
    folder.mkdir()
    files = sorted(phantoms.iterdir())
    for number in range(COUNT):
        (folder / f"{number:02d}.nii.gz").symlink_to(files[number % len(files)])
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n")]  # fmt: skip


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*CTCLIP, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_rows(journal: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not journal.exists() or len(rows(journal)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_and_a_run_that_are_killed(
    repository: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each scan is in the output once, as of a run that nothing happened to."""
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.csv"
    with EmbeddedTriton(repository) as triton:
        arguments = ["predict", scans, "--url", triton.grpc_url]
        to_files = [*arguments, "--jsonl", lines, "--csv", table]
        with running(*to_files, "--readers", 0) as process:
            wait_for_rows(lines, 5)
            process.kill()
        done = len(rows(lines))
        with running(*to_files, "--wait-s", 300) as process:
            wait_for_rows(lines, done + 5)
            assert triton.process_id is not None
            os.kill(triton.process_id, signal.SIGKILL)
            triton.stop()
            assert len(rows(lines)) < COUNT, "the server was killed too late"
            triton.start()
            _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert f"going on from {lines}: {done} done by release" in err
        assert f"{COUNT - done} scored, 0 failed, {done} done before" in err
        # One that does not come back ends a run, and is not a thousand scans that fail.
        gone = tmp_path / "gone.jsonl"
        with running(*arguments, "--jsonl", gone, "--wait-s", 1, "--readers", 0) as process:
            wait_for_rows(gone, 5)
            assert triton.process_id is not None
            os.kill(triton.process_id, signal.SIGKILL)
            _, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    assert "Traceback" not in err
    assert f"what was done so far is in {gone}" in err
    assert "no Triton answers there" in err.splitlines()[-2]
    assert 5 <= len(rows(gone)) < COUNT
    assert not any("error" in row for row in rows(gone))

    # An undisturbed run, from files to answers by one command.
    undisturbed = tmp_path / "undisturbed.csv"
    monkeypatch.setenv("CTCLIP_URL", "localhost:1")  # --repository wins over it
    options = ["--repository", str(repository), "--readers", "0", "--csv", str(undisturbed)]
    assert main(["predict", str(scans), *options]) == 0
    said = capsys.readouterr().err
    for line in (
        f"starting the embedded server with {repository}", "self-check passed",
        "50 scans: 50 scored", "ending the embedded server",
    ):  # fmt: skip
        assert line in said
    assert sorted(row["path"] for row in rows(lines)) == sorted(map(str, scans.iterdir()))
    with table.open(newline="") as got, undisturbed.open(newline="") as expected:
        for mine, theirs in zip(csv.reader(got), csv.reader(expected), strict=True):
            assert mine[:2] + mine[5:] == theirs[:2] + theirs[5:]
            if mine[2] != "probability":
                assert list(map(float, mine[2:5])) == pytest.approx(
                    list(map(float, theirs[2:5])), abs=1e-5
                )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gone.jsonl", "out.csv", "out.jsonl", "scans", "undisturbed.csv",
        "undisturbed.csv.journal.jsonl",
    ]  # fmt: skip
