"""Run the compiler in a process of its own: its death is a failure of one engine, with a reason."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict

from ctclip_client.system.child import child
from ctclip_client.system.progress import Advance
from ctclip_export.engines.compiler import Job, Outcome
from ctclip_export.engines.gpu import DRIVERS_ORDER
from ctclip_export.engines.target import EngineError

_COMMAND = (sys.executable, "-m", "ctclip_export.engines.compiler")


def compile_in_process(job: Job, advance: Advance = lambda _: None) -> Outcome:
    """Compile; `job.plan` exists and is complete when this returns.

    advance: called with the percent gained.
    Raises: EngineError with what the compiler said, or how its process ended.
    """
    with tempfile.TemporaryFile() as said:
        with child(
            _COMMAND, DRIVERS_ORDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        ) as process:
            _converse(process, job, advance)
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    outcome = _read_outcome(job)
    if process.returncode != 0 or outcome is None:
        last = f" ({lines[-1].strip()[:300]})" if lines else ""
        raise _died(job.model, process.returncode, last)
    if outcome.failure:
        raise EngineError(
            f"{job.model}: no engine: {job.target}: {outcome.failure}", "Nothing was placed."
        )
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
        return Outcome(**json.loads(job.outcome.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _died(model: str, code: int, last: str) -> EngineError:
    how = f"ended with exit code {code} and without a result"
    advice = "Nothing was placed. Report it with the version of TensorRT and the GPU's name."
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        advice = "Usually that is the system running out of memory; nothing was placed."
    return EngineError(f"{model}: no engine: the compiler {how}{last}.", advice)
