"""Scenarios of MLPerf Inference, driven by its own LoadGen.

With our own counts of queries instead of those of its rules, so nothing of this is a result of that
benchmark: it is "LoadGen's SingleStream" and so on. Definitions of scenarios, settings and log
files: the LoadGen of mlcommons/inference, `loadgen/test_settings.h` and `loadgen/loadgen.cc`.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctclip_bench.load.answers import Answer, Question, Repeat
from ctclip_bench.load.worker_process import Advance, Caller
from ctclip_client.errors import CTClipError

OWN_COUNTS = (
    "queries and durations are this command's own, not those of the MLPerf rules, which ask for "
    "thousands of queries or ten minutes: LoadGen says INVALID where its own minimum is not met"
)
LARGEST_P99_S = 2.0
"""Of the Server scenario."""
_MS_PER_S, _NS_PER_S = 1000, 10**9
_ACCURACY_LOG, _SUMMARY = "mlperf_log_accuracy.json", "mlperf_log_summary.txt"


@dataclass(frozen=True)
class Run:
    """What LoadGen and the system under test saw. seconds: how long all of it took.

    ms: of each answer, from the call to the answer, in the order of the answers; LoadGen's own
    times, which begin where a query was due, are in `summary`, by its own names.
    complaints: of answers that do not repeat the judged one. transport: how voxels travelled.
    """

    ms: tuple[float, ...]
    seconds: float
    complaints: tuple[str, ...]
    transport: str
    release: str
    summary: dict[str, str | float]


@dataclass(frozen=True)
class LoadGenJob:
    """A job for `worker`: one test of LoadGen's, whose log files go into `folder`.

    accuracy: LoadGen's accuracy mode, each question once. at_once: requests that may be under way;
    more wait, and LoadGen counts their waiting. queries: as many, or (SingleStream) fewer where
    limit_s seconds are over first. rate_per_s: of Server's arrivals (Poisson). expected: as in
    `closed_loop`.
    """

    questions: tuple[Question, ...]
    scenario: str
    folder: Path
    repeat: Repeat
    accuracy: bool = False
    at_once: int = 1
    queries: int = 1
    limit_s: float = 0.0
    rate_per_s: float = 0.0
    expected: tuple[bytes, ...] = ()

    def run(self, caller: Caller, advance: Advance) -> Run:
        """In the other process. Raises: CTClipError, the first one of any query."""
        caller.ready(self.at_once, self.questions)
        test = _Test(self, caller, advance)
        began = time.perf_counter()
        test.run()
        seconds = time.perf_counter() - began
        summary = read_summary((self.folder / _SUMMARY).read_text(encoding="utf-8"))
        return Run(
            tuple(test.ms), seconds, tuple(test.complaints), test.transport, test.release, summary
        )

    def settings(self) -> Any:
        """LoadGen's TestSettings."""
        import mlperf_loadgen as loadgen  # type: ignore[import-not-found]

        settings = loadgen.TestSettings()
        settings.scenario = getattr(loadgen.TestScenario, self.scenario)
        mode = loadgen.TestMode
        settings.mode = mode.AccuracyOnly if self.accuracy else mode.PerformanceOnly
        settings.min_duration_ms = 0
        settings.min_query_count = settings.max_query_count = self.queries
        if self.scenario == "SingleStream":
            settings.max_duration_ms = round(self.limit_s * _MS_PER_S)
        if self.scenario == "Server":
            settings.server_target_qps = self.rate_per_s
            settings.server_target_latency_ns = round(LARGEST_P99_S * _NS_PER_S)
            settings.server_target_latency_percentile = 0.99
        return settings


class _Test:
    """The system under test: hands LoadGen's samples to threads, each with a connection."""

    def __init__(self, job: LoadGenJob, caller: Caller, advance: Advance) -> None:
        self.ms: list[float] = []
        self.complaints: list[str] = []
        self.transport = self.release = ""
        self._job, self._caller, self._advance = job, caller, advance
        self._pool = ThreadPoolExecutor(job.at_once)
        self._failure: BaseException | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """LoadGen runs in a thread that is left behind where a query fails: it would wait for that
        query for ever, and an exception inside of a callback ends the process (SIGSEGV)."""
        threading.Thread(target=self._guarded, args=(self._start,), daemon=True).start()
        self._over.wait()
        self._pool.shutdown(wait=self._failure is None, cancel_futures=True)
        if self._failure is not None:
            raise self._failure

    def _start(self) -> None:
        import mlperf_loadgen as loadgen

        count = len(self._job.questions)
        logs, output = loadgen.LogSettings(), loadgen.LogOutputSettings()
        output.outdir = str(self._job.folder)
        output.copy_summary_to_stdout = output.copy_detail_to_stdout = False
        logs.log_output, logs.enable_trace = output, False
        system = loadgen.ConstructSUT(self._issue, lambda: None)
        library = loadgen.ConstructQSL(count, count, lambda _: None, lambda _: None)
        try:
            # "": no file of settings is taken from the folder in which this happens to run
            loadgen.StartTestWithLogSettings(system, library, self._job.settings(), logs, "")
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(system)
        self._over.set()

    def _issue(self, samples: Sequence[Any]) -> None:
        for sample in samples:
            self._guarded(self._pool.submit, self._guarded, self._answer, sample.id, sample.index)

    def _guarded(self, work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001 (raised in the main thread)
            self._failure = self._failure or error
            self._over.set()

    def _answer(self, query: int, index: int) -> None:
        import mlperf_loadgen as loadgen

        if self._failure is not None:
            return
        question = self._job.questions[index]
        with self._caller.client() as client:
            start_s = time.perf_counter()
            scores = question.ask(client, self._caller.volume(question))
            self.ms.append((time.perf_counter() - start_s) * 1000)
        answer = Answer.of(scores)
        raw = np.frombuffer(answer.to_bytes(), np.uint8)
        response = loadgen.QuerySampleResponse(query, raw.ctypes.data, raw.nbytes)
        loadgen.QuerySamplesComplete([response])  # copies the bytes, where it keeps them
        self.transport, self.release = scores.transport.kind, scores.provenance.release
        if self._job.expected:
            known = Answer.from_bytes(self._job.expected[index], len(scores.findings))
            if complaint := self._job.repeat.complaint(answer, known):
                self.complaints.append(f"{self._job.scenario}, scan {index + 1}: {complaint}")
        self._advance(1)


def read_summary(text: str) -> dict[str, str | float]:
    """mlperf_log_summary.txt: its lines `name : value`, numbers as such."""
    found: dict[str, str | float] = {}
    for line in text.splitlines():
        name, colon, value = (part.strip() for part in line.rpartition(":"))
        if not colon or not name or not value:
            continue
        try:
            number = float(value)
        except ValueError:
            found[name] = value
        else:
            found[name] = number if math.isfinite(number) else value
    return found


def read_accuracy_log(folder: Path, questions: int) -> list[bytes]:
    """mlperf_log_accuracy.json: the answer to each question, in the questions' order.

    Raises: CTClipError where one is missing or came twice.
    """
    path = folder / _ACCURACY_LOG
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = {int(each["qsl_idx"]): bytes.fromhex(each["data"]) for each in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CTClipError(f"LoadGen's {path.name} cannot be read: {error}.") from error
    if len(entries) != questions or sorted(found) != list(range(questions)):
        raise CTClipError(f"LoadGen's {path.name}: {len(entries)} answers to {questions} scans.")
    return [found[index] for index in range(questions)]
