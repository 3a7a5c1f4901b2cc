"""The lines of a text file, plain or of a CSV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from ctclip_client.errors import Unreadable

DELIMITERS = ",;\t"
"""Between the cells of a CSV; spreadsheets of some countries write semicolons."""


def read_lines(path: Path, remedy: str, *, errors: str = "strict") -> list[str]:
    """Lines with their ends, from which `csv.reader` takes apart what it is given.

    Unlike `str.splitlines`, only \\n, \\r and \\r\\n end a line: texts and names of files hold form
    feeds, U+2028 and the like, and no program that writes CSV puts these in quotes.

    errors: what becomes of bytes that are no UTF-8. Raises: Unreadable.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}.", remedy) from error
    return lines_of(content, path, errors=errors)


def lines_of(content: bytes, path: Path, *, errors: str = "strict") -> list[str]:
    """The same of a file that has been read: a pipe can be read only once."""
    try:
        text = content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path}: no UTF-8 (byte {error.start}).", "Write it as UTF-8.") from error
    return list(io.StringIO(text, newline=""))


def delimiter_of(lines: Sequence[str]) -> str:
    """The one that is there most often in the first line, the header."""
    return max(DELIMITERS, key="".join(lines[:1]).count)


def without_end(line: str) -> str:
    """A line of `read_lines` without the characters that end it."""
    return line.rstrip("\r\n")
