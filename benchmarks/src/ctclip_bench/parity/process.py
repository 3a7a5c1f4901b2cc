"""Run one rung in a process of its own, so that its death is a failure and nothing else."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from ctclip_bench.parity.steps import Answer, Job
from ctclip_client.errors import CTClipError
from ctclip_client.system.progress import Advance

Rung = Callable[[Job, Callable[[Answer], None]], None]
_ERROR = "error.txt"


@dataclass(frozen=True)
class Outcome:
    """What a rung's process left: an answer for each scan, or the reason why not."""

    answers: tuple[Answer, ...]
    failure: str = ""


def run_rung(
    rung: Rung,
    job: Job,
    folder: Path,
    advance: Advance = lambda _: None,
    started: Callable[[BaseProcess], None] = lambda _: None,
) -> Outcome:
    """Run a rung; its answers go through files in `folder`.

    advance is called with 1 for each answer, started with the process. A process that is killed,
    crashes, raises, or leaves fewer answers than there are scans has failed.
    """
    folder.mkdir()
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(rung, job, folder), daemon=False
    )
    process.start()
    started(process)
    seen = 0
    try:
        while True:
            alive = process.is_alive()
            found = len(list(folder.glob("*.npz")))
            if found > seen:
                advance(found - seen)
                seen = found
            if not alive:
                break
            time.sleep(0.1)
    except BaseException:
        process.terminate()
        process.join()
        raise
    process.join()
    return _outcome(process.exitcode, folder, len(job.scans))


def _outcome(code: int | None, folder: Path, expected: int) -> Outcome:
    error = folder / _ERROR
    if code is not None and code < 0:
        return Outcome((), f"its process was killed by {signal.Signals(-code).name}")
    if error.is_file():
        return Outcome((), error.read_text(encoding="utf-8"))
    if code != 0:
        return Outcome((), f"its process ended with exit code {code}")
    paths = sorted(folder.glob("*.npz"))
    if len(paths) != expected:
        return Outcome((), f"it left {len(paths)} answers for {expected} scans")
    answers: list[Answer] = []
    for path in paths:
        with np.load(path) as arrays:
            answers.append({name: arrays[name] for name in arrays.files})
    return Outcome(tuple(answers))


def without_names(reason: str, scans: Sequence[Path]) -> str:
    """A rung's reason, with scans by number: it is kept, and file names may be patients' names.

    Numbers count from 1, in the order in which the ladder lists its scans.
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


def _work(rung: Rung, job: Job, folder: Path) -> None:
    # A stop asked for by the system must still stop the server that a rung may have started.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    count = 0

    def emit(answer: Answer) -> None:
        nonlocal count
        part = folder / f"{count:04d}.part"
        with part.open("wb") as file:
            np.savez(file, **answer)
        part.rename(part.with_suffix(".npz"))
        count += 1

    try:
        rung(job, emit)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except CTClipError as error:
        (folder / _ERROR).write_text(error.cause, encoding="utf-8")
        raise SystemExit(1) from None
    except Exception as error:  # noqa: BLE001 (whatever it is, it is this rung's failure)
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        (folder / _ERROR).write_text(f"{text} ({last.name})", encoding="utf-8")
        raise SystemExit(1) from None
