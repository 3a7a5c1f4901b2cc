"""The process that asks the server: `start_worker` starts it, and `serve` is what it does.

Jobs go in by a pipe, one after the other; for each comes out ("advance", n), any number of times,
and then ("answer", what the job returned) or ("error", an exception), after which the process ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection as PipeEnd
from typing import Any

from ctclip_bench.load.asking import Advance, Caller
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_INTERRUPTED, ServiceError
from ctclip_client.system.child import child
from ctclip_client.transport.connection import Connection

_PUTS_AWAY_S = 10.0
"""For shared memory that the server still reads."""


class Worker:
    """The other process, from this side."""

    def __init__(self, pipe: PipeEnd, process: subprocess.Popen[str]) -> None:
        self.process_id = process.pid
        self._pipe, self._process = pipe, process

    def ask(self, job: Any, advance: Advance = lambda _: None) -> Any:
        """Run a job there, and return what its `run(caller, advance)` does; after an error this
        worker takes no more.

        Raises: the job's own error; ServiceError where the process died.
        """
        self.talk(self._pipe.send, job)
        while True:
            kind, content = self.talk(self._pipe.recv)
            if kind == "answer":
                return content
            if kind == "error":
                raise content
            advance(content)

    def talk(self, word: Callable[..., Any], *content: Any) -> Any:
        """Send or receive. Raises: ServiceError where the process died."""
        try:
            return word(*content)
        except (EOFError, OSError):
            code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        raise ServiceError(
            f"the process that asks the server has died ({how}); what it measured is lost.",
            "See what it said above. SIGKILL is mostly the system's answer to too little memory.",
        )


@contextlib.contextmanager
def start_worker(connection: Connection) -> Iterator[Worker]:
    """A process of its own, since LoadGen waits in C++, where no Ctrl-C is heard, ends the process
    by an exception that a callback raises, and since memory and seconds are then the client's."""
    pipe, theirs = Pipe()  # its standard input; whatever LoadGen prints goes to standard error
    command = [sys.executable, "-m", __name__]
    with (
        pipe, theirs,
        child(command, grace_s=_PUTS_AWAY_S, stdin=theirs.fileno(), stdout=2) as process,
    ):  # fmt: skip
        theirs.close()
        worker = Worker(pipe, process)
        worker.talk(pipe.send, connection)
        yield worker
        pipe.close()  # its sign to end


def serve() -> None:
    """Do jobs until there are no more."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pipe = PipeEnd(0)
    said = threading.Lock()

    def say(kind: str, content: Any) -> None:
        with said:
            pipe.send((kind, content))

    code = 0
    caller: Caller | None = None
    try:
        caller = Caller(pipe.recv())
        while True:
            try:
                job = pipe.recv()
            except EOFError:
                break
            say("answer", job.run(caller, lambda count: say("advance", count)))
    except Exception as error:  # noqa: BLE001 (raised again on the other side)
        code = EXIT_CHECK_FAILED
        with contextlib.suppress(OSError):
            say("error", error)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    # From here on another SIGTERM would leave a scan behind in shared memory.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if caller is not None:
        caller.close()
    os._exit(code)  # LoadGen may still wait inside, in C++


if __name__ == "__main__":
    serve()
