"""Standard output and standard error where they are closed, full, or nobody reads them any more."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))
"""What a disk says that takes nothing more."""


def make_usable() -> None:
    """Put something that can be written to in place of streams that were closed (`>&-`), and let a
    terminal without "…" end no command."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        # The next file to be opened would get a closed descriptor's number, and with it what
        # programs that are started here write to their standard streams.
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        nowhere = os.fdopen(number, "w", encoding="utf-8", errors="replace", closefd=False)
        sys.stdout = sys.stdout or nowhere
        sys.stderr = sys.stderr or nowhere
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def is_of_output(error: OSError) -> bool:
    """Whether standard output could not be written: what it did not take is still waiting.

    Where nothing ever waits (PYTHONUNBUFFERED), a full disk without a file's name is taken for it.
    """
    if error.filename is not None:
        return False
    if getattr(sys.stdout, "write_through", False):
        return error.errno in FULL
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def give_up(stream: TextIO) -> None:
    """Let what was not written yet go nowhere: the interpreter's own flush would raise again."""
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (no file of the user's)
            os.dup2(nowhere.fileno(), stream.fileno())
