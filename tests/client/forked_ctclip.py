"""`ctclip` many times, each in a fork of one interpreter that has imported it: the streams and the
end of a real process without the second of its start. Run as a script, see `forks`.

A stream is a file's path, or BROKEN (its reader has gone), FULL or CLOSED.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

BROKEN, FULL, CLOSED = "broken", "full", "closed"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class Forks:
    """The interpreter that is forked. A stream that is not named is kept and returned."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def run(
        self, *arguments: object, out: str = "", err: str = "", unbuffered: bool = False
    ) -> Ran:
        files = [self._folder / name for name in ("out", "err")]
        for file in files:
            file.unlink(missing_ok=True)
        streams = [named or str(file) for named, file in zip((out, err), files, strict=True)]
        job = [[str(argument) for argument in arguments], *streams, unbuffered]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        texts = [file.read_text() if file.exists() else "" for file in files]
        for trouble in ("Traceback", "Exception ignored", "Warning"):
            assert trouble not in texts[1], texts[1]
        return Ran(code, *texts)


@contextmanager
def forks(folder: Path) -> Iterator[Forks]:
    command = [sys.executable, "-W", "error", __file__]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Forks(process, folder)
        finally:
            process.stdin.close()  # type: ignore[union-attr]


def _main() -> int:
    from ctclip_client.cli.program import main

    for name in (
        "cli.doctor", "cli.many", "cli.outputs", "cli.predict", "doctor.examine", "doctor.render",
        "prompts", "readers.nifti", "transport.blocking", "transport.shared_memory",
    ):  # fmt: skip
        importlib.import_module(f"ctclip_client.{name}")
    importlib.import_module("tritonclient.grpc")
    for line in sys.stdin:
        arguments, out, err, unbuffered = json.loads(line)
        with warnings.catch_warnings(action="ignore"):
            number = os.fork()
        if not number:
            _put(2, err)
            _put(1, out)
            sys.stdout = sys.__stdout__ = _stream(1, out, unbuffered=unbuffered)
            sys.stderr = sys.__stderr__ = _stream(2, err, unbuffered=unbuffered)
            _end(main, arguments)
        _, status = os.waitpid(number, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return 0


def _end(main: Callable[[list[str]], int], arguments: list[str]) -> NoReturn:
    """As the interpreter ends, but for the taking apart of all that was imported."""
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        os._exit(120)
    os._exit(code)


def _put(number: int, what: str) -> None:
    if what == CLOSED:
        os.close(number)
        return
    if what == BROKEN:
        reader, end = os.pipe()
        os.close(reader)
    else:
        path = "/dev/full" if what == FULL else what
        end = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(end, number)
    os.close(end)


def _stream(number: int, what: str, *, unbuffered: bool) -> io.TextIOWrapper | None:
    """As the interpreter makes them at its start."""
    if what == CLOSED:
        return None
    file = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(
        file if unbuffered else io.BufferedWriter(file),  # type: ignore[arg-type]
        "utf-8",
        "strict" if number == 1 else "backslashreplace",
        line_buffering=number == 2,
        write_through=unbuffered,
    )


if __name__ == "__main__":
    sys.exit(_main())
