"""Being told to end, by the system or a terminal that was closed, as a kind of Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = [signal.SIGTERM]
if sys.platform != "win32":
    _ENDING.append(signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: a KeyboardInterrupt to all but those for whom it makes a difference."""


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise KeyboardInterrupt, so that work is put away as after Ctrl-C.

    SIGTERM's is a `Terminated`. Signals that somebody has taken care of (nohup ignores SIGHUP) stay
    as they are, but for a SIGINT that is ignored: a script's shell does that to whatever it starts
    with `&`, and `kill -INT` would be in vain. Around a function as `@termination_interrupts()`, or
    in a `with`; in the main thread only. Windows knows no SIGHUP.
    """
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if deaf:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, signal.SIG_DFL)
        if deaf and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(number: int, _: FrameType | None) -> None:
    if sys.platform != "win32" and number == signal.SIGHUP:
        # A closed terminal sends it twice, itself and by way of the shell. The second one must not
        # interrupt the tidying up.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _silence_closed_terminal()
    if number == signal.SIGTERM:
        raise Terminated
    raise KeyboardInterrupt


def _silence_closed_terminal() -> None:
    """Without this, the first word on the way out would raise OSError instead of being said."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
