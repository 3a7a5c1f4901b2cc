"""The process that asks the server: `python -m ctclip_bench.load.worker_process`, see `worker`.

Jobs come in as pickles on standard input, one after the other; for each goes out ("advance", n),
any number of times, and then ("answer", what it returned) or ("error", an exception), after which
the process ends. It imports what a client needs and no more, so that its memory and its seconds are
a client's.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, BinaryIO, Protocol

from ctclip_bench.load.answers import Question
from ctclip_client import Client, Volume
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_INTERRUPTED
from ctclip_client.transport.connection import Connection

Advance = Callable[[int], None]


class Job(Protocol):
    """What `worker.Worker.ask` sends."""

    def run(self, caller: Caller, advance: Advance) -> Any: ...


class Caller:
    """Connections to one server, each with one request at a time."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._clients: list[Client] = []
        self._free: SimpleQueue[Client] = SimpleQueue()
        self._opening = threading.Lock()
        self._volumes: dict[Question, Volume] = {}

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A connection that nobody else uses meanwhile."""
        with self._opening:
            if self._free.empty():
                self._clients.append(self.connection.client())
                self._free.put(self._clients[-1])
            client = self._free.get()
        try:
            yield client
        finally:
            self._free.put(client)

    def ready(self, count: int, questions: Sequence[Question]) -> None:
        """So many connections, and these volumes in memory. Raises: CTClipError."""
        kept = self._volumes
        self._volumes = {q: kept[q] if q in kept else q.volume() for q in questions}
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(self.client()).check_ready()

    def volume(self, question: Question) -> Volume:
        """One of those that `ready` has read."""
        return self._volumes[question]

    def close(self) -> None:
        """End what is under way and give back its shared memory; all at once, since each connection
        may wait for the server."""
        with self._opening, ThreadPoolExecutor(max(len(self._clients), 1)) as pool:
            list(pool.map(Client.close, self._clients))


def main() -> None:
    """Serve jobs until standard input ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    incoming: BinaryIO = sys.stdin.buffer
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever LoadGen prints must not get between the pickles
    said = threading.Lock()

    def say(kind: str, content: Any) -> None:
        with said:
            pickle.dump((kind, content), outgoing)
            outgoing.flush()

    code = 0
    caller: Caller | None = None
    try:
        caller = Caller(pickle.load(incoming))  # noqa: S301 (of the parent process)
        while True:
            try:
                job: Job = pickle.load(incoming)  # noqa: S301 (likewise)
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
    main()
