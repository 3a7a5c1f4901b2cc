"""The process that measures: one for all phases, so that CUDA starts and the model loads once.

A phase that crashes or takes too long takes this process with it and nothing else: the next phase
gets a new one.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from ctclip_bench.gpu.settings import Settings
from ctclip_bench.results.result import Row
from ctclip_client.system.child import become_child

WHOLE = "the whole phase"
"""Name of the row that says why a phase did not come to its end, or did not begin."""
_CONTEXT = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
_PUTS_AWAY_S = 15.0
"""Seconds that a phase gets to stop its server, before it is killed."""


class Worker:
    """Starts the process when there is something to do; `with` ends it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._end(told=error is not None)

    def run(
        self, module: str, table: str, limit_s: float, keep: Callable[[Row, bool], None]
    ) -> str:
        """Run a phase; keep gets each row, and whether it is a failed one, as soon as it is there.

        module: with its package; table: its rows'. Returns why it did not end
        by itself, "" if it did.
        """
        try:
            pipe = self._started()
            deadline = time.monotonic() + limit_s
            pipe.send((module, table))
            while True:
                if not pipe.poll(max(deadline - time.monotonic(), 0)):
                    self._end(told=True)
                    return f"it took longer than its {limit_s:.0f} s and was ended"
                kind, *content = pipe.recv()
                if kind == "row":
                    keep(*content)
                    continue
                return str(content[0])
        except (EOFError, OSError):
            return self._crashed()

    def _started(self) -> Connection:
        if self._pipe is None:
            self._pipe, theirs = _CONTEXT.Pipe()
            self._process = _CONTEXT.Process(
                target=_work, args=(self._settings, theirs, os.getpid())
            )
            self._process.start()
            theirs.close()  # its end is now noticed here
            self._pipe.recv()  # it has imported what it needs: that is no phase's time
        return self._pipe

    def _crashed(self) -> str:
        process = self._process
        process.join(_PUTS_AWAY_S)
        code = process.exitcode
        self._end(told=True)
        if code is not None and code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def _end(self, *, told: bool) -> None:
        """told: it is in the middle of something; otherwise the pipe's end ends it."""
        if self._pipe is None:
            return
        pipe, process = self._pipe, self._process
        self._pipe = self._process = None
        pipe.close()
        try:
            if told:
                process.terminate()
            process.join(_PUTS_AWAY_S)
        finally:
            process.kill()
            process.join()


def _work(settings: Settings, pipe: Connection, parent: int) -> None:
    # Ctrl-C is the parent's to hear: this process has a session of its own, and ends with it.
    become_child(parent)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        from ctclip_bench.gpu.rows import Missing, Rows, reason_of
        from ctclip_bench.gpu.subject import Subject

        subject = Subject(settings)
        pipe.send("ready")
        while True:
            module, table = pipe.recv()
            rows = Rows(table, lambda row, failed: pipe.send(("row", row, failed)))
            try:
                phase = importlib.import_module(module)
                phase.measure(subject, rows)
            except Missing as reason:
                pipe.send(("row", Row(table, WHOLE, not_run=str(reason)), False))
            except Exception as error:  # noqa: BLE001 (a phase that fails must not stop the next)
                traceback.print_exc()
                pipe.send(("end", reason_of(error)))
                continue
            finally:
                subject.tidy()
            pipe.send(("end", ""))
