"""Run the compiler in a process of its own: its death is a failure of one engine, with a reason."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO

from ctclip_client.system.child import child
from ctclip_client.system.progress import Advance
from ctclip_export.engines.compiler import Job, Outcome
from ctclip_export.engines.gpu import DRIVERS_ORDER
from ctclip_export.engines.target import EngineError

_COMMAND = (sys.executable, "-m", "ctclip_export.engines.compiler")


def compile_in_process(
    job: Job,
    advance: Advance,
    started: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Compile; `job.plan` exists and is complete when this returns.

    advance: called with the percent gained. started: called with the process id.
    Raises: EngineError with what the compiler said, or how its process ended.
    """
    name = Path(job.onnx).parent.parent.name
    with tempfile.TemporaryFile() as said:
        with child(
            _COMMAND, DRIVERS_ORDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        ) as process:
            started(process.pid)
            _converse(process, job, advance)
        code = process.returncode
        outcome = _read_outcome(job)
        if code != 0 or outcome is None:
            raise EngineError(f"{name}: no engine: {_how(code)}{_last(said)}.", _advice(code))
    if outcome.failure:
        raise EngineError(
            f"{name}: no engine: {job.target}: {outcome.failure}", "Nothing was placed."
        )
    if not Path(job.plan).is_file() or not Path(job.plan).stat().st_size:
        raise EngineError(f"{name}: no engine: the compiler left an empty plan.")
    return outcome


def _converse(process: subprocess.Popen[str], job: Job, advance: Advance) -> None:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the compiler was started without pipes")
    try:
        process.stdin.write(json.dumps(asdict(job)) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return  # its exit code and its last words say why
    shown = 0
    for line in process.stdout:
        if line.strip().isdecimal():
            percent = int(line)
            advance(percent - shown)
            shown = percent


def _read_outcome(job: Job) -> Outcome | None:
    try:
        return Outcome(**json.loads(Path(job.outcome).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _how(code: int) -> str:
    if code < 0:
        return f"the compiler was killed by {signal.Signals(-code).name}"
    return f"the compiler ended with exit code {code} and without a result"


def _last(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return f" ({lines[-1].strip()[:300]})" if lines else ""


def _advice(code: int) -> str:
    if code == -signal.SIGKILL:
        return "Usually that is the system running out of memory; nothing was placed."
    return "Nothing was placed. Report it with the version of TensorRT and the GPU's name."
