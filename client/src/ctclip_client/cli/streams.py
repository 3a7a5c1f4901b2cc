"""Standard output and standard error where they are closed, full, or nobody reads them any more.

A reader that goes away (`| head`) is nobody's failure: what is printed from then on goes nowhere,
and the command ends by its own exit code. What cannot be said on standard error is not said.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

from ctclip_client.errors import InvalidInput


def make_usable() -> None:
    """Put something that can be written to in place of streams that were closed (`>&-`), and let
    neither a reader that goes away nor a terminal without "…" end a command."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        # The next file to be opened would get a closed descriptor's number, and with it what
        # programs that are started here write to their standard streams.
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        nowhere = os.fdopen(number, "w", encoding="utf-8", errors="replace", closefd=False)
        sys.stdout = sys.stdout or nowhere
        sys.stderr = sys.stderr or nowhere
    # Once, and nothing that somebody else (a test, a notebook) has put there.
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _Output(sys.stdout)
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Messages(sys.stderr)


def is_read(stream: TextIO) -> bool:
    """Whether, as far as is known, somebody or a file still takes what is written to a stream."""
    return not (isinstance(stream, _Stream) and stream.gone)


class _Stream(io.TextIOWrapper):
    """A standard stream that goes nowhere once it has failed. The one it stands for stays open."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer, stream.encoding, "backslashreplace",
            line_buffering=stream.line_buffering, write_through=stream.write_through,
        )  # fmt: skip
        self.gone = False
        self._is_terminal = stream.isatty()

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Let what was not written yet go nowhere: the interpreter's own flush would fail again."""
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (no file of the user's)
            os.dup2(nowhere.fileno(), self.fileno())
        self.gone = (
            isinstance(error, ConnectionError)  # a pipe's or socket's reader
            or (error.errno == errno.EIO and self._is_terminal)  # a terminal that was closed
            or (error.errno == errno.EINVAL and sys.platform == "win32")  # a pipe's reader there
        )


class _Output(_Stream):
    """Raises InvalidInput for a full disk, once."""

    def _fail(self, error: OSError) -> None:
        super()._fail(error)
        if not self.gone:
            raise InvalidInput(
                f"standard output cannot be written: {error.strerror}.",
                "Send it to a file on a disk with room, or to a program that reads it.",
            ) from error


class _Messages(_Stream):
    """Raises nothing: nobody can be told, and the exit code still tells."""
