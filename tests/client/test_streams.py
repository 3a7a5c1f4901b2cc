"""`ctclip` where its output goes nowhere, and what it says of names that would steer a terminal."""

from __future__ import annotations

import errno
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ctclip_client.cli import streams
from ctclip_client.cli.program import main
from ctclip_server.embedded.server import EmbeddedTriton

from ..nifti_files import chest, save

CTCLIP = [sys.executable, "-W", "error", "-m", "ctclip_client"]
FULL = "error: standard output cannot be written: No space left on device."


def shell(
    arguments: Sequence[object], streams: str, *, unbuffered: bool = False
) -> subprocess.CompletedProcess[str]:
    """As a shell runs it, with its ways to close and to redirect streams."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    line = f"{shlex.join(map(str, [*CTCLIP, *arguments]))} {streams}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        capture_output=True, text=True, check=False, timeout=120, env=environment,
    )  # fmt: skip
    for trouble in ("Traceback", "Exception ignored", "Warning"):
        assert trouble not in done.stderr, done.stderr
    return done


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save(tmp_path / "scan.nii", chest(), (1.0, 0.7, 0.8))


class TestFull:
    @pytest.mark.parametrize("unbuffered", [False, True])
    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_doctor(self, options: list[str], unbuffered: bool, scan: Path) -> None:
        done = shell(["doctor", scan, *options], ">/dev/full", unbuffered=unbuffered)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-2] == FULL

    @pytest.mark.parametrize("unbuffered", [False, True])
    @pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["--version"]])
    def test_help(self, arguments: list[str], unbuffered: bool) -> None:
        done = shell(arguments, ">/dev/full", unbuffered=unbuffered)
        assert (done.returncode, done.stderr.splitlines()[0]) == (2, FULL)

    @pytest.mark.parametrize("options", [[], ["--json"], ["--json", "--csv", "out.csv"]])
    def test_predict(
        self,
        options: list[str],
        scan: Path,
        misbehaving: EmbeddedTriton,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It ends at once, and the error names no open file."""
        monkeypatch.chdir(tmp_path)
        arguments = ["predict", scan, scan, *options, "--url", misbehaving.grpc_url]
        done = shell(arguments, ">/dev/full")
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert errors == [FULL]
        assert "scored" not in done.stderr.replace("what was scored so far", "")

    def test_an_error_keeps_its_exit_code_where_nobody_can_be_told(self, tmp_path: Path) -> None:
        assert shell(["doctor", tmp_path / "absent"], "2>/dev/full").returncode == 2
        unanswered = ["predict", tmp_path / "scan.nii", "--url", "localhost:1"]
        assert shell(unanswered, "2>/dev/full").returncode == 4

    def test_not_open_for_writing(self, scan: Path) -> None:
        done = shell(["doctor", scan], f"1<{shlex.quote(str(scan))}")
        assert done.returncode == 2
        assert "error: standard output cannot be written: Bad file" in done.stderr


class TestClosed:
    CLOSED = (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-")

    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_the_exit_code_is_what_it_is_otherwise(self, options: list[str], scan: Path) -> None:
        plain = shell(["doctor", scan, *options], "")
        assert plain.returncode == 0
        for closed in self.CLOSED:
            done = shell(["doctor", scan, *options], closed)
            assert done.returncode == 0, closed
            assert done.stdout == (plain.stdout if closed == "2>&-" else ""), closed

    def test_an_error_is_one_without_anywhere_to_say_it(self, tmp_path: Path) -> None:
        for closed in self.CLOSED:
            absent = shell(["doctor", tmp_path / "absent"], closed)
            assert (absent.returncode, absent.stdout) == (2, ""), closed

    def test_predict(self, scan: Path, misbehaving: EmbeddedTriton, tmp_path: Path) -> None:
        table = tmp_path / "out.csv"
        arguments = ["predict", scan, scan, "--csv", table, "--url", misbehaving.grpc_url]
        assert shell(arguments, ">&- 2>&-").returncode == 0
        assert table.read_text().count(str(scan)) == 4
        for closed in (">&-", "2>&-"):
            assert shell(["predict", scan, "--url", misbehaving.grpc_url], closed).returncode == 0

    def test_other_errors_of_the_system_are_not_taken_for_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk need not be that of standard output, which has taken everything here."""
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
        assert not streams.is_of_output(OSError(errno.ENOSPC, "full"))
        assert not streams.is_of_output(OSError(errno.ENOSPC, "full", "a file"))
        assert not streams.is_of_output(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))


def test_an_unknown_option_points_to_the_help_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, help_of in (
        (["predict", "scan.nii", "--classfy"], "ctclip predict"),
        (["doctor", "scan.nii", "--jsn"], "ctclip doctor"),
        (["--verison"], "ctclip"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        cause, remedy = capsys.readouterr().err.splitlines()
        assert cause == f"error: unrecognized arguments: {arguments[-1]}"
        assert remedy == f"       {help_of} --help lists the options."
