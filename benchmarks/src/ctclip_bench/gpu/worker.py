"""The process that measures: one for all phases, so that CUDA starts and the model loads once.

A phase that crashes or takes too long takes this process with it and nothing else: the next phase
gets a new one.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ctclip_bench.gpu.rows import WHOLE, Rows, is_missing, reason_of
from ctclip_bench.gpu.settings import Settings
from ctclip_bench.results.result import Row
from ctclip_client.system.child import become_child
from ctclip_export.engines.gpu import DRIVERS_ORDER

if TYPE_CHECKING:
    from ctclip_bench.gpu.subject import Subject

_CONTEXT = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
_STARTS_S = 120.0
"""Seconds that a new process gets for its imports, which wait for a cold disk."""
_PUTS_AWAY_S = 15.0
"""Seconds that a phase gets to stop its server, before it is killed."""


class Worker:
    """Starts the process when there is something to do; `close` ends it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started: tuple[Any, Connection, tempfile.TemporaryDirectory[str]] | None = None

    def run(
        self, module: str, table: str, limit_s: float, keep: Callable[[Row, bool], None]
    ) -> str:
        """Run a phase; keep gets each row, and whether it is a failed one, as soon as it is there.

        module: with its package; table: its rows'. Returns why it did not end by itself, "" if it
        did.
        """
        process, pipe, _ = self._started or self._start()
        deadline = time.monotonic() + limit_s + _STARTS_S
        with suppress(OSError):  # it has crashed since, as receiving will find
            pipe.send((module, table))
        while True:
            try:
                if not pipe.poll(max(deadline - time.monotonic(), 0)):
                    self.close()
                    return f"it took longer than its {limit_s:.0f} s and was ended"
                kind, *content = pipe.recv()
            except (EOFError, OSError):
                process.join(_PUTS_AWAY_S)
                code = process.exitcode
                self.close()
                if code is not None and code < 0:
                    return f"its process was killed by {signal.Signals(-code).name}"
                return f"its process ended with exit code {code}"
            if kind == "begun":  # imports, and their time, are no phase's
                deadline = time.monotonic() + limit_s
            elif kind == "row":
                keep(*content)
            else:
                return str(content[0])

    def _start(self) -> tuple[Any, Connection, tempfile.TemporaryDirectory[str]]:
        folder = tempfile.TemporaryDirectory(prefix="ctclip-gpu-", ignore_cleanup_errors=True)
        pipe, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(
            target=_work, args=(self._settings, theirs, os.getpid(), folder.name)
        )
        process.start()
        self._started = process, pipe, folder
        theirs.close()  # its end is now noticed here
        return self._started

    def close(self) -> None:
        """End the process, whatever it is doing, and remove what it has left."""
        if self._started is None:
            return
        process, pipe, folder = self._started
        self._started = None
        try:
            pipe.close()  # its sign to end, should it not hear the signal
            process.terminate()
            process.join(_PUTS_AWAY_S)
        finally:
            process.kill()
            process.join()
            folder.cleanup()


def _work(settings: Settings, pipe: Connection, parent: int, folder: str) -> None:
    # Ctrl-C is the parent's to hear: this process has a session of its own, and ends with it.
    become_child(parent)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(DRIVERS_ORDER)  # CUDA has not started: the GPU that nvidia-smi speaks of
    # Graphs, profiles, compiled kernels: what this process leaves when killed, the parent removes.
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        from ctclip_bench.gpu.subject import Subject
        from ctclip_bench.graphs.ceilings import tf32

        subject = Subject(settings)
        with tf32(False):  # cuDNN has it on by default
            while True:
                module, table = pipe.recv()
                pipe.send(("begun",))
                pipe.send(("end", _measure(subject, module, table, pipe)))
                subject.tidy()
    shutil.rmtree(folder, ignore_errors=True)  # the parent may have been killed


def _measure(subject: Subject, module: str, table: str, pipe: Connection) -> str:
    """One phase. Why it did not come to its end, "" if it did."""
    rows = Rows(table, lambda row, failed: pipe.send(("row", row, failed)))
    try:
        importlib.import_module(module).measure(subject, rows)
    except Exception as error:  # noqa: BLE001 (a phase that fails must not stop the next)
        if is_missing(error):
            rows.tell(Row(table, WHOLE, not_run=str(error)), False)
            return ""
        traceback.print_exc()
        return reason_of(error)
    return ""
