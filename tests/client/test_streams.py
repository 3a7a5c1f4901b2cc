"""Exit codes of every command where its output goes nowhere: no reader, a full disk, closed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctclip_client.cli import program, streams
from ctclip_client.cli.program import TRACEBACK_VARIABLE, command_words, main
from ctclip_server.embedded.server import EmbeddedTriton

from ..nifti_files import chest, copies, save
from .forked_ctclip import BROKEN, CLOSED, FULL, Forks, forks

COMMANDS = command_words()
UNWRITTEN = "error: standard output cannot be written: No space left on device."
NOWHERE = [
    {"out": BROKEN},
    {"out": BROKEN, "unbuffered": True},
    {"out": BROKEN, "err": BROKEN},
    {"out": BROKEN, "err": FULL},
    {"out": CLOSED},
    {"out": CLOSED, "err": CLOSED},
    {"err": BROKEN},
    {"err": CLOSED},
    {"err": FULL},
]
"""Streams that change no exit code."""
SOME = [NOWHERE[0], NOWHERE[2], NOWHERE[5]]


@pytest.fixture(scope="module")
def ctclip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forks(tmp_path_factory.mktemp("streams")) as found:
        yield found


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    (folder / "bad.nii").write_bytes(b"no CT")
    return save(folder / "scan.nii", chest(), (1.0, 0.7, 0.8))


def test_every_command_there_is(ctclip: Forks) -> None:
    """Also one that somebody adds: what it prints by --help, and its error of usage."""
    assert len({name for name, *_ in COMMANDS}) == 14
    for command in ((), *COMMANDS):
        for last, code in (("--help", 0), ("--no-such-option", 2)):
            plain = ctclip.run(*command, last)
            assert plain.code == code
            assert plain.out or plain.err
            for nowhere in () if command and code else SOME if command else NOWHERE:
                assert ctclip.run(*command, last, **nowhere).code == code, (command, last, nowhere)
        full = ctclip.run(*command, "--help", out=FULL)
        assert (full.code, full.err.splitlines()[0]) == (2, UNWRITTEN)
    for arguments, code in ((["--version"], 0), ([], 2), (["nonsense"], 2)):
        for nowhere in NOWHERE:
            assert ctclip.run(*arguments, **nowhere).code == code, (arguments, nowhere)


def test_verdicts_and_errors_keep_their_codes(
    ctclip: Forks, scan: Path, misbehaving: EmbeddedTriton, tmp_path: Path
) -> None:
    url = ["--url", misbehaving.grpc_url]
    bad, table = scan.with_name("bad.nii"), tmp_path / "out.csv"
    cases = {
        ("doctor", scan): 0,
        ("doctor", bad): 1,
        ("doctor", bad, "--json"): 1,
        ("doctor", scan.with_name("absent")): 2,
        ("predict", scan, *url): 0,
        ("predict", bad, scan, *url): 3,
        ("predict", bad, scan, "--json", "--csv", table, *url): 3,
        ("predict", bad, *url): 2,
        ("predict", scan, "--url", "localhost:1"): 4,
    }
    for arguments, code in cases.items():
        for nowhere in SOME if code != 4 else SOME[:1]:
            for file in tmp_path.iterdir():  # the table, and the journal that says what failed
                file.unlink()
            assert ctclip.run(*arguments, **nowhere).code == code, (arguments, nowhere)
            if "--csv" in arguments:  # a file beside is still written
                assert table.read_text().count(str(scan)) == 2
        if code in (0, 1, 3):
            for file in tmp_path.iterdir():
                file.unlink()
            full = ctclip.run(*arguments, out=FULL)
            assert full.code == 2, arguments
            errors = [line for line in full.err.splitlines() if line.startswith("error: ")]
            assert errors[-1] == UNWRITTEN


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_run_for_nobody_ends(
    options: list[str], ctclip: Forks, misbehaving: EmbeddedTriton, tmp_path: Path
) -> None:
    """Thousands of scans need not be scored for `| head`; those for a file are."""
    scans = copies(save(tmp_path / "scan.nii", chest(), (1.0, 0.7, 0.8)), 3)
    arguments = ["predict", *scans, *options, "--url", misbehaving.grpc_url]
    ran = ctclip.run(*arguments, out=BROKEN)
    assert ran.code == 0
    assert "3 scans: 1 scored, 0 failed, 2 left: nobody reads" in ran.err
    ran = ctclip.run(*arguments, out=FULL)
    assert (ran.code, "scored" in ran.err) == (2, False)


def test_a_shells_own_streams(scan: Path) -> None:
    """The interpreter's own start and end, once each."""
    line = f'"$0" -W error -m ctclip_client doctor "{scan}"'
    for redirected, code in (("| true", 0), (">&- 2>&-", 0), (">/dev/full", 2), (f'1<"{scan}"', 2)):
        script = f"set -o pipefail; {line} {redirected}"
        done = subprocess.run(
            ["/bin/bash", "-c", script, sys.executable],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, (redirected, done.stderr)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_a_terminal_that_is_closed_is_a_reader_that_goes_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    master, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        for name in ("stdout", "__stdout__"):
            monkeypatch.setattr(sys, name, stream)
        streams.make_usable()
        assert streams.is_read(sys.stdout)
        os.close(master)
        print("for nobody", flush=True)
        assert not streams.is_read(sys.stdout)


def test_what_nobody_foresaw_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {
        ZeroDivisionError("by design"): (
            "a fault of ctclip itself (test_streams.py, line",
            "=1 in",
        ),
        RecursionError("deep"): ("RecursionError: deep", TRACEBACK_VARIABLE),
        MemoryError("Unable to allocate 3 GiB"): ("too little memory: Unable to", "End what else"),
        MemoryError(): ("too little memory: no more", "End what else"),
        BrokenPipeError(32, "Broken pipe"): ("BrokenPipeError", TRACEBACK_VARIABLE),
        PermissionError(13, "Permission denied", "a.nii"): (
            "a.nii: Permission denied.",
            "may read",
        ),
        OSError(28, "No space left on device", "a.npy"): ("a.npy: No space left", "Make room"),
        OSError(28, "No space left on device"): ("No space left on device.", "TMPDIR"),
        UnicodeEncodeError("ascii", "ü", 0, 1, "no"): ("UnicodeEncodeError", TRACEBACK_VARIABLE),
    }
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)
    for fault, (cause, remedy) in faults.items():

        def fail(_: object, fault: Exception = fault) -> int:
            raise fault

        monkeypatch.setattr(program, "_run", fail)
        assert main(["doctor"]) == 2
        first, second = capsys.readouterr().err.splitlines()
        assert cause in first
        assert remedy in second
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(UnicodeEncodeError):
        main(["doctor"])


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
