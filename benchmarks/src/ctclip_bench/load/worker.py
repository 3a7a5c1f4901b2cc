"""The other process that asks the server, from this side."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import Any, Self, cast

from ctclip_bench.load.worker_process import Advance, Job
from ctclip_client.errors import ServiceError
from ctclip_client.system.child import child
from ctclip_client.transport.connection import Connection

_PUTS_AWAY_S = 10.0
"""For shared memory that the server still reads."""


class Worker:
    """A process of its own, since LoadGen waits in C++, where no Ctrl-C is heard, ends the process
    by an exception that a callback raises, and since memory and seconds are then the client's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stack = ExitStack()
        self._process: Any = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "ctclip_bench.load.worker_process"]
        self._process = self._stack.enter_context(
            child(command, grace_s=_PUTS_AWAY_S, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        self._send(self._connection)
        return self

    def __exit__(self, *exception: Any) -> None:
        with suppress(OSError):
            self._process.stdin.close()  # its sign to end
        self._stack.__exit__(*exception)

    @property
    def process_id(self) -> int:
        """Of the process that asks."""
        return int(self._process.pid)

    def ask(self, job: Job, advance: Advance = lambda _: None) -> Any:
        """Run a job there; after an error this worker takes no more.

        Raises: the job's own error; ServiceError where the process died.
        """
        self._send(job)
        while True:
            try:
                kind, content = pickle.load(self._process.stdout.buffer)  # noqa: S301 (our own)
            except (EOFError, OSError, pickle.UnpicklingError):
                raise self._died() from None
            if kind == "answer":
                return content
            if kind == "error":
                raise cast(Exception, content)
            advance(content)

    def _send(self, content: object) -> None:
        try:
            pickle.dump(content, self._process.stdin.buffer)
            self._process.stdin.buffer.flush()
        except OSError:
            raise self._died() from None

    def _died(self) -> ServiceError:
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return ServiceError(
            f"the process that asks the server has died ({how}); what it measured is lost.",
            "See what it said above. SIGKILL is mostly the system's answer to too little memory.",
        )
