"""Long commands that are told to end: nothing half-written, nothing left running, exit code 130."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

CTCLIP = str(Path(sys.executable).with_name("ctclip"))
Command = Callable[[str], list[str]]


def wait_for(what: str, pid: int) -> list[psutil.Process]:
    """All processes below `pid`, once one of them is running `what`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        below = psutil.Process(pid).children(recursive=True)
        for process in below:
            with contextlib.suppress(psutil.Error):  # gone meanwhile
                if what in " ".join(process.cmdline()):
                    return below
        time.sleep(0.05)
    raise AssertionError(f"no process below {pid} runs {what}")


def still_there(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Which of them have not gone after some seconds."""
    return psutil.wait_procs(processes, timeout=60)[1]


@pytest.fixture
def command(
    repository: Path, phantoms: Path, chest_ct: Path, vocabulary: Path, tmp_path: Path
) -> Command:
    """Arguments of a command that takes long and writes only below `tmp_path`."""
    data = tmp_path / "demo" / "data"
    data.mkdir(parents=True)
    for sample in (chest_ct, vocabulary):
        (data / sample.name).symlink_to(sample)
    (tmp_path / "out").mkdir()
    out = str(tmp_path / "out")
    subject = ["--repository", str(repository)]
    scans = ["--scans", str(phantoms)]
    commands = {
        "demo": ["--small", "--folder", str(data.parent)],
        "parity": [*subject, *scans, "--report", f"{out}/report.html"],
        "bench": [*subject, *scans, "--out", out, "--requests", "10000"],
        "build-engines": [*subject, "--target", "tensorrt-rtx", "--out", f"{out}/engines"],
    }
    return lambda name: [CTCLIP, name, *commands[name]]


@pytest.mark.parametrize(
    ("name", "stage", "runs", "ending"),
    [
        pytest.param("demo", "Sample CT: read", "", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("demo", "Demo checkpoint: encode", "", signal.SIGHUP, marks=pytest.mark.slow),
        ("parity", "ONNX fp32, OpenVINO", "tritonserver", signal.SIGTERM),
        pytest.param(
            "bench", "Scans: read", "tritonserver", signal.SIGTERM, marks=pytest.mark.slow
        ),
        ("build-engines", "ctclip_vision: check", "engines.compiler", signal.SIGTERM),
    ],
)
def test_a_terminated_command_leaves_nothing(
    name: str, stage: str, runs: str, ending: signal.Signals, command: Command, tmp_path: Path
) -> None:
    with subprocess.Popen(command(name), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if line.startswith(stage):
                break
        assert stage in seen, seen
        below = psutil.Process(process.pid).children(recursive=True)
        started = wait_for(runs, process.pid) if runs else below
        process.send_signal(ending)
        said = process.stderr.read()
        assert process.wait(60) == 130, said
    assert said.splitlines()[-1] == "interrupted"
    # A step of the parity check, a process of its own, does not tell how it was ended.
    assert "Traceback" not in said
    assert still_there(started) == []
    assert [path for path in (tmp_path / "out").rglob("*") if not path.is_dir()] == []
    small = tmp_path / "demo" / "small"
    assert not small.exists() or not any(".part" in path.name for path in small.iterdir())


@pytest.mark.slow
def test_a_closed_terminal_ends_a_command_and_its_server(command: Command, tmp_path: Path) -> None:
    """Whatever is still said has nobody to go to; that must not get into the way of the end."""
    master, terminal = pty.openpty()
    # In a session of its own, as a terminal emulator starts it.
    with subprocess.Popen(
        ["setsid", "--ctty", *command("bench")],  # noqa: S607
        stdin=terminal, stdout=terminal, stderr=terminal,
    ) as process:  # fmt: skip
        os.close(terminal)
        shown = b""
        while b"Scans: read" not in shown:
            shown += os.read(master, 65536)
        started = wait_for("tritonserver", process.pid)
        os.close(master)
        assert process.wait(60) == 130
    assert still_there(started) == []
    assert list((tmp_path / "out").iterdir()) == []
