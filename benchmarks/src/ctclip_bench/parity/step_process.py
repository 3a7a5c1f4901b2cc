"""Run one step in a process of its own, so that its death is a failure and nothing else.

The processes are forked from one that has imported what steps need (torch alone takes seconds).
"""

from __future__ import annotations

import errno
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Generic, TypeVar

from ctclip_bench.parity.inputs import NoVerdict, ParityInputs
from ctclip_bench.parity.prepared_scans import PreparedScan
from ctclip_client.errors import (
    EXIT_INTERRUPTED,
    CTClipError,
    ServerError,
    ServiceError,
    Unreadable,
)
from ctclip_client.system.progress import Advance

T = TypeVar("T")
Step = Callable[[ParityInputs, Sequence[PreparedScan]], Iterator[T]]
"""Yields something for every scan, in their order."""

_MEMORY = "End what else takes memory here, or compare on a machine with more."
_OUT_OF_MEMORY = ("allocate memory", "bad allocation", "bad_alloc")
"""In words of PyTorch, ONNX Runtime and OpenVINO, which have no class for it."""
_ENDED_BY_OTHERS = (-signal.SIGKILL, EXIT_INTERRUPTED)
"""Exit codes of a process that somebody killed, or told to end; a crash has others."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ctclip_bench.parity.steps"])


@dataclass(frozen=True)
class StepRun(Generic[T]):
    """What came out of a step: one answer for each scan, or the reason why not."""

    answers: tuple[T, ...]
    failure: str = ""


@contextmanager
def _later(*signals: int) -> Iterator[None]:
    """Let signals wait until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def import_in_background() -> None:
    """Start the process that steps are forked from, while this one does something else."""
    resource_tracker.ensure_running()  # apart, since it lets SIGINT through again
    with _later(signal.SIGINT):  # which it inherits: Ctrl-C is for this process alone
        forkserver.ensure_running()


def run_step(
    step: Step[T],
    inputs: ParityInputs,
    scans: Sequence[PreparedScan],
    advance: Advance = lambda _: None,
) -> StepRun[T]:
    """Run a step; advance is called with 1 for each answer.

    One that crashes, raises, or leaves fewer answers than there are scans has failed.
    Raises: NoVerdict, Unreadable, ServiceError where that says nothing of the release: memory or
    disk ran out, somebody killed the process, a file cannot be read, a server has gone.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(step, inputs, scans, sender))
    answers: list[T] = []
    failure = ""
    import_in_background()
    try:
        # Interrupted inside, it would run on, and nobody would know of it.
        with _later(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.start()
        sender.close()
        with receiver:
            while True:
                try:
                    answer, failure, error = receiver.recv()
                except (EOFError, OSError):  # it has ended, perhaps in the middle of an answer
                    break
                if error is not None:
                    raise error
                if failure:
                    break
                answers.append(answer)
                advance(1)
    except BaseException:
        if process.pid is not None:
            process.terminate()
            process.join()
        raise
    process.join()
    if process.exitcode in _ENDED_BY_OTHERS:
        raise NoVerdict("a step's process was killed, as the system does without memory.", _MEMORY)
    if process.exitcode is not None and process.exitcode < 0:
        failure = f"its process was killed by {signal.Signals(-process.exitcode).name}"
    elif not failure and process.exitcode != 0:
        failure = f"its process ended with exit code {process.exitcode}"
    elif not failure and len(answers) != len(scans):
        failure = f"it left {len(answers)} answers for {len(scans)} scans"
    return StepRun((), failure) if failure else StepRun(tuple(answers))


def reason_of(error: Exception) -> str:
    """An exception as the reason of a failed step, in one line."""
    if isinstance(error, CTClipError):
        return error.cause
    last = traceback.extract_tb(error.__traceback__)[-1]
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line} ({last.name})"


def without_names(reason: str, scans: Sequence[Path]) -> str:
    """A step's reason, with scans by number: it is kept, and file names may be patients' names.

    Numbers count from 1, in the order in which the check lists its scans.
    """
    names: dict[str, str] = {}
    for number, path in enumerate(scans, 1):
        for spelling in (path, path.absolute(), path.resolve(), path.name):
            names.setdefault(str(spelling), f"scan {number}")
        for folder in (path.absolute().parent, path.resolve().parent):
            if folder != folder.parent:
                names.setdefault(str(folder), "the scans' folder")
    for name in sorted(names, key=len, reverse=True):
        reason = reason.replace(name, names[name])
    return reason


def _work(
    step: Step[T], inputs: ParityInputs, scans: Sequence[PreparedScan], sender: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends this process
    # Otherwise a scan would stay behind, in a file or in shared memory.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for answer in step(inputs, scans):
            sender.send((answer, "", None))
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Exception as error:  # noqa: BLE001 (whatever it is, it is this step's failure)
        with suppress(OSError):  # nobody waits for it any more
            sender.send((None, reason_of(error), _of_no_release(error)))
        raise SystemExit(1) from None


def _of_no_release(error: Exception) -> CTClipError | None:
    """The error to raise where this one says nothing of the release."""
    if isinstance(error, NoVerdict | Unreadable):
        return error
    if isinstance(error, ServiceError) and not isinstance(error, ServerError):
        return error
    if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return NoVerdict(f"there is too little memory: {reason_of(error)}.", _MEMORY)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoVerdict(f"{error.strerror}: {reason_of(error)}.", "Make room, or set TMPDIR.")
    return None
