"""One run of Triton, as its keeper tells of it: started, ended, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctclip_client.errors import ServerError
from ctclip_server.embedded import keeper
from ctclip_server.embedded.launch import DRAIN_S


class KeptTriton:
    """A Triton and its keeper, the process that ends it when this one dies.

    Attributes:
        process_id: Triton's, None until it was started.
        exit_code: None while it runs; negative is a signal's number.
        root: the folder that the keeper made for it.
        log: the log file, None until it was started.
    """

    def __init__(self, plan: Mapping[str, Any]) -> None:
        """Start the keeper; it starts Triton by the plan."""
        self.process_id: int | None = None
        self.exit_code: int | None = None
        self.root = ""
        self.log: Path | None = None
        self._plan = plan
        self._owner = os.getpid()
        self._reports = b""
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._command(json.dumps(plan).encode())

    def is_running(self) -> bool:
        """Whether Triton runs, or is about to be started."""
        self.listen(0)
        return self.exit_code is None

    def listen(self, timeout_s: float) -> None:
        """Take in what the keeper says, waiting for it at most `timeout_s` seconds.

        Raises: ServerError if Triton cannot be started.
        """
        if self.exit_code is not None or self._keeper.stdout is None:
            return
        descriptor = self._keeper.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return
        chunk = os.read(descriptor, 65536)
        if not chunk:  # the keeper is gone, and its death ends Triton
            self.exit_code = -signal.SIGKILL
            return
        self._reports += chunk
        *lines, self._reports = self._reports.split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "failed" in report:
                raise ServerError(f"Triton cannot be started: {report['failed']}.")
            if "started" in report:
                self.process_id = report["started"]
                self.root = report["root"]
                self.log = Path(self._plan["log"].replace(self._plan["root"], self.root))
            if "exited" in report:
                self.exit_code = report["exited"]

    def stop(self, graceful: bool) -> None:
        """End Triton, and the keeper with it; requests in flight may finish if `graceful`.

        Interrupted (Ctrl-C), it forces the end before it raises. In a process that was forked from
        the one that started it, this does nothing.
        """
        if self._owner != os.getpid():
            return
        try:
            wanted = graceful and self.exit_code is None
            self._command(b"stop %d" % (DRAIN_S + 5) if wanted else b"kill")
            if not self._ends(DRAIN_S + 20):
                self._force()
        except BaseException:
            self._force()
            raise
        finally:
            for pipe in (self._keeper.stdin, self._keeper.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _force(self) -> None:
        self._command(b"kill")
        if not self._ends(10):
            self._keeper.kill()  # its death takes Triton with it
            self._keeper.wait()

    def _ends(self, timeout_s: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(timeout_s)
        return self._keeper.returncode is not None

    def _command(self, line: bytes) -> None:
        if self._keeper.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._keeper.stdin.write(line + b"\n")
                self._keeper.stdin.flush()
