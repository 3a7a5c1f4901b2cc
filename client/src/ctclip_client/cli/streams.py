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
    if sys.stdout is None:
        sys.stdout = _nowhere(1)
    if sys.stderr is None:
        sys.stderr = _nowhere(2)
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
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _nowhere(number: int) -> TextIO:
    """The closed descriptor itself, if it is one: the next file to be opened would get its number,
    and with it what programs that are started here write to their standard streams."""
    closed = False
    try:
        os.fstat(number)
    except OSError:
        closed = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if closed and nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
        nowhere = number
    os.set_inheritable(nowhere, closed)
    return os.fdopen(nowhere, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
