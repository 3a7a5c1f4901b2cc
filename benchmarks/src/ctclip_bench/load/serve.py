"""`ctclip bench serve`: verdict first, then clients in a closed loop, then LoadGen's scenarios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ctclip_bench.load.closed_loop import Asked, ClosedLoop, per_s
from ctclip_bench.load.judged import Judged
from ctclip_bench.load.loadgen import (
    LARGEST_P99_S,
    OWN_COUNTS,
    LoadGenJob,
    Run,
    read_accuracy_log,
)
from ctclip_bench.load.memory import Peaks
from ctclip_bench.load.session import WHOLE_PATH, Session
from ctclip_bench.load.statistics import Spent
from ctclip_bench.load.worker import Worker
from ctclip_bench.results.result import Parity, Result, Row, Times
from ctclip_client import Volume
from ctclip_client.errors import CTClipError, ServiceError

AT_ONCE = 16
"""Requests under way at once in the Server scenario: more would only wait in another place."""
_PROBES = 5
_FEWEST = 20
_FIRST_SHARE, _DOWN = 0.7, 0.6
"""Of the throughput measured before: the first rate that is tried; then of the rate before."""
_UNDER_LOAD = "every answer under load"


@dataclass(frozen=True)
class Plan:
    """scenarios: of LoadGen's. clients: at once, for each row of "clients". requests: at most, and
    limit_s seconds at most, for each row."""

    scenarios: tuple[str, ...]
    clients: tuple[int, ...]
    requests: int
    limit_s: float


@dataclass
class Measurement:
    """Rows as they come, so that what was measured is kept when the server goes."""

    session: Session
    volumes: Sequence[Volume]
    plan: Plan
    rows: list[Row] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    judged: Judged | None = None
    error: CTClipError | None = None
    _first: float | None = None
    _throughput: float = 0.0

    def run(self) -> None:
        """Measure everything; an error of the server under load ends it, and is kept in `error`.

        Raises: CTClipError before there is a verdict.
        """
        questions = self.session.questions(self.volumes)
        with Worker(self.session.server) as worker:
            job = LoadGenJob(questions, "SingleStream", self.session.folder, self.session.repeat)
            self.judged = self._judge(worker, job)
            if not self.judged.passed:
                return
            expected = self.judged.answers
            job = replace(job, expected=expected)
            loop = ClosedLoop(
                questions, 1, self.plan.requests, self.plan.limit_s, self.session.repeat, expected
            )
            row = Row("clients", "")
            try:
                for clients in self.plan.clients:
                    row = Row("clients", f"clients {clients}", {"clients": clients})
                    self._clients(worker, replace(loop, clients=clients), row)
                for scenario in self.plan.scenarios:
                    row = Row("scenarios", scenario)
                    self._scenario(worker, replace(job, scenario=scenario), row)
            except ServiceError as error:
                self.error = error
                self.rows.append(replace(row, not_run=self.session.said(error)))

    def result(self) -> Result:
        """What is kept. Only with a verdict."""
        assert self.judged is not None  # noqa: S101 (run has come as far as that)
        plan = {
            "scenarios": self.plan.scenarios, "clients": self.plan.clients,
            "requests": self.plan.requests, "limit_s": self.plan.limit_s, "counts": OWN_COUNTS,
        }  # fmt: skip
        found = self.session.result(
            "serve", self.judged, self.rows, plan, self.volumes,
            passed=not self.complaints and self.error is None,
        )  # fmt: skip
        if not self.judged.passed:
            return found
        under_load = Parity(
            "FAIL" if self.complaints else "PASS", f"the judged answers, {_UNDER_LOAD}",
            reason=self._reason(),
        )  # fmt: skip
        return replace(found, verdicts=(*found.verdicts, under_load))

    def _reason(self) -> str:
        if not self.complaints:
            return ""
        return f"{len(self.complaints)} answers do not repeat it: {self.complaints[0]}"

    def _judge(self, worker: Worker, job: LoadGenJob) -> Judged:
        """LoadGen's accuracy mode: every scan once, answers out of LoadGen's own log."""
        count = len(job.questions)
        with self.session.stages.stage("Parity: every scan once", count) as advance:
            run: Run = worker.ask(replace(job, accuracy=True, queries=count), advance)
        self.session.check_release(run.release)
        if self.session.fresh:
            self._first = run.ms[0]
        answers = read_accuracy_log(self.session.folder, count)
        return self.session.judge(self.volumes, answers)

    def _parity(self, complaints: Sequence[str]) -> Parity:
        assert self.judged is not None  # noqa: S101 (as above)
        if complaints:
            return replace(self.judged.parity, verdict="FAIL", reason=complaints[0])
        return self.judged.parity

    def _clients(self, worker: Worker, loop: ClosedLoop, row: Row) -> None:
        before = self.session.statistics()
        with (
            self.session.stages.stage(f"Clients: {loop.clients}", loop.requests) as advance,
            Peaks(self.session.memory) as peaks,
        ):
            asked: list[Asked] = worker.ask(loop, advance)
        spent = self.session.spent_since(before, WHOLE_PATH, len(asked))
        wrong = [f"{loop.clients} clients: {a.complaint}" for a in asked if a.complaint]
        self.complaints += wrong
        parity = self._parity(wrong)
        if self._first is not None:
            self._first_row(asked, parity)
        rate = per_s(asked)
        self._throughput = max(self._throughput, rate)
        figures: dict[str, Any] = {"scans_per_s": rate}
        row = replace(row, settings={**row.settings, "transport": asked[0].transport})
        if (gib := peaks.gib("server")) is not None:
            figures["peak_gib"] = gib
        if (gib := peaks.gib("gpu")) is not None:
            figures["gpu_peak_gib"] = gib
        if (one := self._one()) is not None:
            figures["speed_of_one"] = rate / one.figures["scans_per_s"]
            if "peak_gib" in one.figures and "peak_gib" in figures:
                figures["memory_of_one"] = figures["peak_gib"] / one.figures["peak_gib"]
        times = Times.of([each.ms for each in asked])
        self.rows.append(replace(row, times_ms=times, parity=parity, figures=figures))
        self.rows += _inside_triton(spent, loop.clients)

    def _one(self) -> Row | None:
        """The row of one client, if that was measured before."""
        return next((row for row in self.rows if row.settings.get("clients") == 1), None)

    def _first_row(self, later: Sequence[Asked], parity: Parity) -> None:
        """Against later answers to the same scan, the one that LoadGen's accuracy mode begins
        with."""
        assert self._first is not None  # noqa: S101 (asked above)
        same = [each.ms for each in later if each.question == 0] or [each.ms for each in later]
        figures = {"of_later_ones": self._first / statistics.median(same)}
        times = Times.of([self._first])
        row = Row("clients", "first answer after ready", {}, times, parity, figures)
        self.rows.append(row)
        self._first = None

    def _scenario(self, worker: Worker, job: LoadGenJob, row: Row) -> None:
        rate = self._throughput
        if job.scenario == "Server":
            self._server(worker, replace(job, at_once=AT_ONCE), row, rate)
            return
        job = replace(job, queries=self.plan.requests, limit_s=self.plan.limit_s)
        if job.scenario == "Offline":
            # One query holds all its samples, so that it cannot be cut: as many as there is time.
            fitting = int(rate * self.plan.limit_s) if rate else _FEWEST
            queries = max(1, min(self.plan.requests, fitting))
            job = replace(job, queries=queries, at_once=max(self.plan.clients, default=4))
        run = self._test(worker, job)
        self._throughput = max(self._throughput, len(run.ms) / run.seconds)
        self.rows.append(self._filled(row, job, run))

    def _server(self, worker: Worker, job: LoadGenJob, row: Row, known: float) -> None:
        """The largest rate whose p99 stays within the limit, by a short search.

        Only below the throughput that was measured before: of a rate above it the queue grows for
        ever, which a short run does not show.
        """
        too_much = known or self._alone(worker, job)
        rate, best, probes = too_much * _FIRST_SHARE, None, []
        for _ in range(_PROBES):
            queries = max(_FEWEST, int(rate * self.plan.limit_s / _PROBES))
            probe = replace(job, queries=queries, rate_per_s=rate)
            run = self._test(worker, probe)
            good = run.summary.get("Performance constraints satisfied") == "Yes"
            probes.append({"rate_per_s": rate, "p99_ms": _p99_ms(run), "within": good})
            if good:
                best = self._filled(row, probe, run)
            else:
                too_much = rate
            if best is None:
                rate *= _DOWN
            else:
                rate = (best.figures["queries_per_s"] + too_much) / 2
        if best is None:
            tried = min(each["rate_per_s"] for each in probes)
            why = f"p99 exceeds {LARGEST_P99_S:g} s at {tried:.3g} scans a second and above"
            self.rows.append(replace(row, figures={"probes": probes}, not_run=why))
        else:
            self.rows.append(replace(best, figures={**best.figures, "probes": probes}))

    def _alone(self, worker: Worker, job: LoadGenJob) -> float:
        """Scans a second of one client, where nothing was measured before."""
        run = self._test(
            worker, replace(job, scenario="SingleStream", queries=3, limit_s=self.plan.limit_s)
        )
        return len(run.ms) / run.seconds

    def _test(self, worker: Worker, job: LoadGenJob) -> Run:
        name = f"LoadGen: {job.scenario}"
        if job.rate_per_s:
            name += f", {job.rate_per_s:.3g} scans a second"
        with self.session.stages.stage(name, job.queries) as advance:
            run: Run = worker.ask(job, advance)
        self.complaints += run.complaints
        return run

    def _filled(self, row: Row, job: LoadGenJob, run: Run) -> Row:
        figures: dict[str, Any] = {
            "scans_per_s": len(run.ms) / run.seconds, "queries": len(run.ms),
            "loadgen_says": run.summary.get("Result is"), "loadgen": run.summary,
        }  # fmt: skip
        if job.rate_per_s:
            figures["queries_per_s"] = job.rate_per_s
        settings = {"at_once": job.at_once, "transport": run.transport}
        parity = self._parity(run.complaints)
        times = _times(job.scenario, run)
        return replace(row, settings=settings, times_ms=times, parity=parity, figures=figures)


def _times(scenario: str, run: Run) -> Times:
    """LoadGen's own percentiles, from when a query was due: in its Server scenario a query also
    waits to be asked. Offline's samples are all due at once, and what a summary lacks is ours:
    from the call to the answer.
    """
    ours = Times.of(run.ms)
    if scenario == "Offline":
        return ours

    def said(name: str, otherwise: float) -> float:
        value = run.summary.get(f"{name} latency (ns)")
        return float(value) / 1e6 if isinstance(value, float | int) else otherwise

    return Times(
        ours.n, said("50.00 percentile", ours.p50), said("90.00 percentile", ours.p90),
        said("99.00 percentile", ours.p99), said("Min", ours.least), said("Max", ours.largest),
    )  # fmt: skip


def _p99_ms(run: Run) -> float:
    """LoadGen's own, from when a query was due."""
    return float(run.summary["99.00 percentile latency (ns)"]) / 1e6


def _inside_triton(spent: dict[str, Spent], clients: int) -> list[Row]:
    return [
        Row("inside Triton", model, {"clients": clients}, figures=each.figures())
        for model, each in spent.items()
    ]
