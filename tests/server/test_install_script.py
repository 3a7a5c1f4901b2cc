"""scripts/install.py, through which the Makefile installs: one moving line instead of a wall."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install.py"

FILE = "onnx-1.23.2-cp311-cp311-manylinux_2_27_x86_64.whl"


def bar(done: str) -> str:
    """A state of pip's bar, as rich draws it."""
    return f"\r\x1b[2K     \x1b[90m━━━╺━━━\x1b[0m \x1b[32m{done} MB\x1b[0m 9.1 MB/s eta 0"


# What pip 23.2 writes to a terminal, and the name of a file as newer ones write it.
SAID = f"""\
Requirement already satisfied: numpy<2 in ./lib (from onnx) (1.26.4)
Collecting onnx
  Downloading {FILE}.metadata (8.4 kB)
  Downloading {FILE} (8.9 MB)
\x1b[?25l{bar("0.0/8.9")}{bar("4.2/8.9")}{bar("8.9/8.9")}
\x1b[?25hObtaining file:///somewhere/client
Installing collected packages: onnx, ctclip-client
Successfully installed ctclip-client-0.1.0 onnx-1.23.2
"""

STAND_IN = f"""
import os, sys
assert sys.argv[1] == "install"
if "--quiet" not in sys.argv:
    sys.stdout.buffer.write({SAID.encode()!r})
    sys.stdout.flush()
if "broken" in sys.argv:
    sys.exit("ERROR: No matching distribution found for broken")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which pip is a stand-in that says SAID, or fails where it is told to.

    If the real pip were found all the same, it could neither fetch nor install anything.
    """
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(STAND_IN, encoding="utf-8")
    plain = {n: v for n, v in os.environ.items() if n != "CI" and not n.startswith("PIP_")}
    harmless = {"PIP_NO_INDEX": "1", "PIP_DRY_RUN": "1", "PIP_CONFIG_FILE": os.devnull}
    return plain | harmless | {"PYTHONPATH": str(tmp_path), "COLUMNS": "100"}


def watched(environment: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    """Exit code, and each state of the terminal's last line."""
    master, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], stdout=terminal, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
            while chunk := os.read(master, 65536):
                shown += chunk
    os.close(master)
    text = shown.decode().replace("\x1b[2K", "").replace("\n", "\r")
    return process.returncode, [state.strip() for state in text.split("\r") if state.strip()]


def test_a_terminal_sees_what_is_fetched_in_one_line(environment: dict[str, str]) -> None:
    code, states = watched(environment, "onnx")
    assert code == 0
    moving = [state.partition(" ")[2] for state in states[:-1]]
    assert list(dict.fromkeys(moving)) == [
        "asking for the packages' versions",
        "fetching onnx 1.23.2 (8.9 MB)",
        "fetching onnx 1.23.2 (0.0/8.9 MB)",
        "fetching onnx 1.23.2 (4.2/8.9 MB)",
        "fetching onnx 1.23.2 (8.9/8.9 MB)",
        "preparing client",
        "unpacking 2 packages",
    ]
    assert states[-1] == "2 packages unpacked, 9 MB fetched"


def test_what_pip_said_is_shown_when_it_fails(environment: dict[str, str]) -> None:
    code, states = watched(environment, "broken")
    assert code == 1
    assert states[-1] == "ERROR: No matching distribution found for broken"


@pytest.mark.parametrize("watching", [True, False])
def test_ci_and_files_see_nothing(watching: bool, environment: dict[str, str]) -> None:
    if watching:
        assert watched(environment | {"CI": "true"}, "onnx") == (0, [])
        return
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "onnx"], env=environment, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_nobody_watching_sees_why_it_failed(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "broken"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "No matching distribution" in done.stderr
