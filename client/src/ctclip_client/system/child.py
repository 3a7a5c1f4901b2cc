"""Child processes that end with this one, and that are told to end once.

Imports the standard library only: it also runs as a script by a bare interpreter, see `child`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@contextmanager
def child(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    grace_s: float = 0.0,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a program, in text mode, and wait for its end when the block ends.

    An exception in the block (an interruption, mostly) ends the program: SIGTERM, `grace_s`
    seconds to put away its work, SIGKILL. A second interruption kills it at once. On Linux it is
    told to end when this process dies, too. Windows has neither SIGTERM nor Ctrl-C for one process
    alone: there it is killed at once, and hears Ctrl-C itself.

    Args:
        command: program and arguments.
        environment: variables that it gets besides those of this process.
        grace_s: 0 kills it without a word: it has nothing to put away.
        stdin, stdout, stderr: as for `subprocess.Popen`.
    """
    begin: list[str] = []
    if sys.platform != "win32":  # whose exec would end the process that is waited for
        told_by = signal.SIGTERM if grace_s else signal.SIGKILL
        # This file becomes a child and then that program. As a preexec_fn, become_child would run
        # in a fork of a process that has threads, which may hang.
        begin = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(told_by))]
    process = subprocess.Popen(
        [*begin, *command], stdin=stdin, stdout=stdout, stderr=stderr, text=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    try:
        yield process
        process.wait()
    except BaseException:
        _end(process, grace_s)
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # of what it never read
                    pipe.close()


def become_child(parent: int, told_by: int = signal.SIGTERM) -> None:
    """To be called by a new process itself: it ends with its parent, and hears no Ctrl-C.

    The parent decides what Ctrl-C means, and tells its children once. If they heard it as well,
    the second signal would interrupt them while they put away their work.

    Args:
        parent: process id of the parent, as that one has read it before the start.
        told_by: the signal that the parent's death sends. It is sent, too, when the thread that
            started this process ends.
    """
    if sys.platform != "win32":
        os.setsid()
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(told_by), 0, 0, 0)
    if os.getppid() != parent:  # it died before it could be watched
        os.kill(os.getpid(), told_by)


def _end(process: subprocess.Popen[str], grace_s: float) -> None:
    try:
        if grace_s:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
    finally:
        process.kill()  # harmless after its end
        process.wait()


if __name__ == "__main__":
    become_child(int(sys.argv[1]), int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606
