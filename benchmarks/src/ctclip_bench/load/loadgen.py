"""Scenarios of MLPerf Inference, driven by its own LoadGen.

With our own counts of queries instead of those of its rules, so nothing of this is a result of that
benchmark: it is "LoadGen's SingleStream" and so on. Definitions of scenarios, settings and log
files: the LoadGen of mlcommons/inference, `loadgen/test_settings.h` and `loadgen/loadgen.cc`.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctclip_bench.load.asking import Advance, Asked, Caller, Question
from ctclip_client import Scores
from ctclip_client.errors import CTClipError

LARGEST_P99_S = 2.0
"""Of the Server scenario."""


Summary = Mapping[str, str | float]
"""LoadGen's own, by its own names; its times begin where a query was due."""


@dataclass(frozen=True)
class LoadGenJob:
    """A job for `worker`: one test of LoadGen's, whose log files go into `folder`.

    accuracy: LoadGen's accuracy mode, each question once. at_once: requests that may be under way;
    more wait, and LoadGen counts their waiting. queries: as many, or (SingleStream) fewer where
    limit_s seconds are over first. rate_per_s: of Server's arrivals (Poisson).
    """

    questions: tuple[Question, ...]
    scenario: str
    folder: Path
    accuracy: bool = False
    at_once: int = 1
    queries: int = 1
    limit_s: float = 0.0
    rate_per_s: float = 0.0

    def run(self, caller: Caller, advance: Advance) -> tuple[list[Asked], Summary]:
        """In the other process. Raises: CTClipError, the first one of any query.

        Samples go to threads, each with a connection. LoadGen runs in a thread, too, that is left
        behind where a query fails: it would wait for that query for ever, and an exception inside
        of a callback ends the process (SIGSEGV).
        """
        import mlperf_loadgen as loadgen  # type: ignore[import-not-found]

        caller.ready(self.at_once, self.questions)
        pool = ThreadPoolExecutor(self.at_once)
        asked: list[Asked] = []
        failures: list[BaseException] = []
        over = threading.Event()

        @contextlib.contextmanager
        def failure_kept() -> Iterator[None]:
            try:
                yield
            except BaseException as error:  # noqa: BLE001 (raised in the main thread)
                failures.append(error)
                over.set()

        def answer(query: int, index: int) -> None:
            with failure_kept():
                found = caller.ask(self.questions[index], index)
                asked.append(found)
                raw = np.frombuffer(as_bytes(found.scores), np.uint8)
                response = loadgen.QuerySampleResponse(query, raw.ctypes.data, raw.nbytes)
                loadgen.QuerySamplesComplete([response])  # copies the bytes, where it keeps them
                advance(1)

        def issue(samples: Sequence[Any]) -> None:
            with failure_kept():
                for sample in samples:
                    pool.submit(answer, sample.id, sample.index)

        def test() -> None:
            with failure_kept():
                self._test(loadgen, issue)
                over.set()

        threading.Thread(target=test, daemon=True).start()
        over.wait()
        pool.shutdown(wait=not failures, cancel_futures=True)
        if failures:
            raise failures[0]
        summary = self.folder / "mlperf_log_summary.txt"
        return asked, read_summary(summary.read_text(encoding="utf-8"))

    def _test(self, loadgen: Any, issue: Callable[[Sequence[Any]], None]) -> None:
        count = len(self.questions)
        logs, output = loadgen.LogSettings(), loadgen.LogOutputSettings()
        output.outdir = str(self.folder)
        output.copy_summary_to_stdout = output.copy_detail_to_stdout = False
        logs.log_output, logs.enable_trace = output, False
        system = loadgen.ConstructSUT(issue, lambda: None)
        library = loadgen.ConstructQSL(count, count, lambda _: None, lambda _: None)
        try:
            # "": no file of settings is taken from the folder in which this happens to run
            loadgen.StartTestWithLogSettings(system, library, self._settings(loadgen), logs, "")
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(system)

    def _settings(self, loadgen: Any) -> Any:
        """LoadGen's TestSettings."""
        settings = loadgen.TestSettings()
        settings.scenario = getattr(loadgen.TestScenario, self.scenario)
        mode = loadgen.TestMode
        settings.mode = mode.AccuracyOnly if self.accuracy else mode.PerformanceOnly
        settings.min_duration_ms = 0
        settings.min_query_count = settings.max_query_count = self.queries
        if self.scenario == "SingleStream":
            settings.max_duration_ms = round(self.limit_s * 1000)
        if self.scenario == "Server":
            settings.server_target_qps = self.rate_per_s
            settings.server_target_latency_ns = round(LARGEST_P99_S * 10**9)
            settings.server_target_latency_percentile = 0.99
        return settings


def read_summary(text: str) -> Summary:
    """mlperf_log_summary.txt: its lines `name : value`, numbers as such."""
    found: dict[str, str | float] = {}
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.rpartition(":"))
        if not name or not value:
            continue
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        found[name] = number if math.isfinite(number) else value
    return found


def logged_answers(folder: Path, asked: Sequence[Asked], questions: int) -> list[Scores]:
    """The answer to each question, in the questions' order, as mlperf_log_accuracy.json has it.

    Raises: CTClipError where that lacks one, has one twice, or has another one than was given.
    """
    path = folder / "mlperf_log_accuracy.json"
    given = {each.question: each.scores for each in asked}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = {int(each["qsl_idx"]): bytes.fromhex(each["data"]) for each in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CTClipError(f"LoadGen's {path.name} cannot be read: {error}.") from error
    if len(entries) != questions or sorted(found) != list(range(questions)):
        raise CTClipError(f"LoadGen's {path.name}: {len(entries)} answers to {questions} scans.")
    if any(as_bytes(given[number]) != data for number, data in found.items()):
        raise CTClipError(f"LoadGen's {path.name}: other answers than the server gave.")
    return [given[number] for number in range(questions)]


def as_bytes(scores: Scores) -> bytes:
    """Logits (F, 2), probabilities (F,), embedding (E,), one after the other, float32."""
    parts = (scores.logits.reshape(-1), scores.probabilities, scores.image_embedding)
    return bytes(np.concatenate(parts).astype("<f4").tobytes())
