"""The process between the caller and Triton: whatever ends the caller, Triton ends too.

Run as a script by a bare interpreter (`python -I -S keeper.py`), so it imports the standard
library only. It alone makes the runtime folder, starts Triton and, at the end, removes all that
bears its name: Triton's process group with its Python stubs, their shared memory, the folder. A
Triton that was killed may leave an empty /tmp/python_env_*, whose owner nobody can tell.

Protocol: standard input carries one line, the plan as JSON, then `stop SECONDS` or `kill`; its end
means that the caller is gone. Standard output carries one JSON object a line: `started`, `exited`
or `failed`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

POLL_S = 0.2
ORPHANED_GRACE_S = 5.0
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Keep one Triton for one caller; return when nothing of it is left."""
    # Ctrl-C and a terminal's hang-up are the caller's to hear; it passes on what it decides.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    caller = os.getppid()
    with open(0, "rb", buffering=0, closefd=False) as plain:
        # Without a buffer: it would swallow a command that came right behind the plan.
        plan = json.loads(plain.readline() or b"null")
    if plan is None:
        return 0
    try:
        root = Path(tempfile.mkdtemp(prefix=plan["prefix"], dir=plan["directory"]))
    except OSError as error:
        _report(failed=f"cannot make a folder in {plan['directory']}: {error.strerror}")
        return 1
    try:
        return _keep(plan, root, caller)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        remove_shared_memory(plan["prefix"])


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared-memory regions whose names begin with `prefix`: those of one server."""
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            region.unlink()


def _keep(plan: dict[str, Any], root: Path, caller: int) -> int:
    try:
        triton = _start(plan, root)
    except OSError as error:
        _report(failed=f"{error.filename or 'tritonserver'}: {error.strerror}")
        return 1
    grace_s = 0.0
    ended = False
    try:
        _report(started=triton.pid, root=str(root))
        while triton.poll() is None and not _told_to_end(caller, POLL_S):
            pass
        if triton.poll() is None:
            grace_s = _grace(caller)
        else:
            # Its log is still in the folder: stay until the caller has read it.
            _report(exited=triton.returncode)
            _end(triton, 0.0)
            ended = True
            while not _told_to_end(caller, POLL_S):
                pass
    finally:
        if not ended:
            _end(triton, grace_s)
    return 0


def _told_to_end(caller: int, timeout_s: float) -> bool:
    """Whether a command, or the end of input, waits to be read, or the caller is gone.

    The end of input is the usual sign, but forked children of a dead caller may hold the pipe.
    """
    return os.getppid() != caller or bool(select.select([0], [], [], timeout_s)[0])


def _grace(caller: int) -> float:
    """Seconds that Triton gets to end, by the command that waits on standard input."""
    if os.getppid() != caller:
        return ORPHANED_GRACE_S
    words = os.read(0, 4096).split()
    if not words:
        return ORPHANED_GRACE_S
    return float(words[1]) if words[0] == b"stop" else 0.0


def _start(plan: dict[str, Any], root: Path) -> subprocess.Popen[bytes]:
    """Fill the folder and start Triton in a process group of its own."""
    for name in (*plan["links"], *plan["copies"], *plan["files"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    for name, target in plan["links"].items():
        (root / name).symlink_to(target)
    for name, source in plan["copies"].items():
        shutil.copyfile(source, root / name)
    for name, content in plan["files"].items():
        (root / name).write_text(content, "utf-8")
    arguments = [part.replace(plan["root"], str(root)) for part in plan["arguments"]]
    environment = dict(os.environ)
    for name, value in plan["environment"].items():
        environment[name] = value.replace(plan["root"], str(root))
    libc = ctypes.CDLL(None)
    # Orphaned stubs become children of this process, which ends them with the group.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    log = Path(plan["log"].replace(plan["root"], str(root)))
    with log.open("ab" if plan["append"] else "wb") as output:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=root,
            start_new_session=True,
            preexec_fn=before_exec,  # noqa: PLW1509 (this process has one thread)
        )


def _end(triton: subprocess.Popen[bytes], grace_s: float) -> None:
    """End Triton and its group; it gets `grace_s` seconds, which a second command cuts short."""
    if triton.poll() is None and grace_s > 0:
        triton.terminate()
        deadline = time.monotonic() + grace_s
        while triton.poll() is None and time.monotonic() < deadline:
            if select.select([0], [], [], POLL_S / 4)[0]:
                chunk = os.read(0, 4096)
                if chunk:
                    break
                time.sleep(POLL_S / 4)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(triton.pid, signal.SIGKILL)
    triton.wait()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _report(**fields: object) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    raise SystemExit(main())
