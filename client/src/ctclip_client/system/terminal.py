"""What a terminal may be given of texts that came from files, servers and command lines."""

from __future__ import annotations

import shlex
import sys


def printable(text: str) -> str:
    """Return text that cannot steer a terminal, whatever a file or a server put into it.

    Control characters of C0 and C1, ends of lines and everything else without a shape become
    `\\x1b` and the like; halves of characters (names of files that are no text), too.
    """
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return shown.encode("utf-8", "backslashreplace").decode()


def say(line: str) -> None:
    """Tell a person a line, on standard error."""
    print(printable(line), file=sys.stderr, flush=True)


def command_line(*words: object) -> str:
    """Return a command that can be pasted into a shell, whatever its paths and names hold."""
    return shlex.join(map(str, words))
