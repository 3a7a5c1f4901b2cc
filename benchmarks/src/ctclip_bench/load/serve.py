"""`ctclip bench serve`: verdict first, then clients in a closed loop, then LoadGen's scenarios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ctclip_bench.load.asking import Asked, ClosedLoop, Question, per_s
from ctclip_bench.load.loadgen import LARGEST_P99_S, LoadGenJob, logged_answers
from ctclip_bench.load.memory import Peaks
from ctclip_bench.load.session import WHOLE_PATH, Session, under_load
from ctclip_bench.load.statistics import count
from ctclip_bench.load.statistics import figures as inside_triton
from ctclip_bench.load.worker import start_worker
from ctclip_bench.results.result import Parity, Result, Row, Times
from ctclip_client.errors import CTClipError, ServiceError

OWN_COUNTS = (
    "queries and durations are this command's own, not those of the MLPerf rules, which ask for "
    "thousands of queries or ten minutes: LoadGen says INVALID where its own minimum is not met"
)
AT_ONCE = 16
"""Requests under way at once in the Server scenario: more would only wait in another place."""
_PROBES = 5
_FEWEST = 20


@dataclass(frozen=True)
class Plan:
    """scenarios: of LoadGen's. clients: at once, for each row of "clients". requests: at most, and
    limit_s seconds at most, for each row."""

    scenarios: tuple[str, ...]
    clients: tuple[int, ...]
    requests: int
    limit_s: float


class Measurement:
    """Rows as they come, so that what was measured is kept when the server goes: then `error` says
    why it ended."""

    def __init__(self, session: Session, plan: Plan) -> None:
        self.error: CTClipError | None = None
        self._session, self._plan = session, plan
        self._questions: tuple[Question, ...] = session.questions()
        self._rows: list[Row] = []
        self._complaints: list[str] = []
        self._throughput = 0.0

    def run(self) -> Result:
        """Judge, and measure everything. Raises: CTClipError before there is a verdict."""
        plan = {**vars(self._plan), "counts": OWN_COUNTS}
        with start_worker(self._session.connection) as self._worker:
            first = self._judge()
            if self._verdict.verdict != "PASS":
                return self._session.result("serve", [self._verdict], (), plan)
            todo = [Row("clients", f"clients {n}", {"clients": n}) for n in self._plan.clients]
            todo += [Row("scenarios", name) for name in self._plan.scenarios]
            for row in todo:
                clients = row.table == "clients"
                try:
                    self._rows += self._clients(row, first) if clients else [self._scenario(row)]
                except ServiceError as error:
                    self.error = error
                    # Its words may name a host, which no result does; the command prints them.
                    why = f"{type(error).__name__} ended the measurement"
                    self._rows.append(replace(row, not_run=why))
                    break
        against, reason = "the judged answers, every answer under load", ""
        if wrong := self._complaints:
            reason = f"{len(wrong)} answers do not repeat it: {wrong[0]}"
        verdict = Parity("FAIL" if wrong else "PASS", against, reason=reason)
        found = self._session.result("serve", [self._verdict, verdict], self._rows, plan)
        return replace(found, passed=found.passed and self.error is None)

    def _judge(self) -> Asked:
        """LoadGen's accuracy mode: every scan once, answers as its log has them; the first one."""
        session, count = self._session, len(self._questions)
        job = LoadGenJob(self._questions, "SingleStream", session.folder, True, queries=count)
        with session.stages.stage("Parity: every scan once", count) as advance:
            asked: list[Asked] = self._worker.ask(job, advance)[0]
        self._judged = logged_answers(session.folder, asked, count)
        self._verdict = session.judge(self._judged)
        return asked[0]

    def _parity(self, name: str, asked: Sequence[Asked]) -> Parity:
        wrong = self._session.complaints(asked, self._judged)
        self._complaints += [f"{name}, {each}" for each in wrong]
        return under_load(self._verdict, wrong)

    def _clients(self, row: Row, first: Asked) -> list[Row]:
        session, clients = self._session, row.settings["clients"]
        loop = ClosedLoop(self._questions, clients, self._plan.requests, self._plan.limit_s)
        spent_since = count(session.connection)
        with (
            session.stages.stage(f"Clients: {clients}", loop.requests) as advance,
            Peaks(session.memory) as peaks,
        ):
            asked: list[Asked] = self._worker.ask(loop, advance)
        spent = spent_since(WHOLE_PATH, len(asked))
        parity = self._parity(row.name, asked)
        rows: list[Row] = []
        if session.process_id is not None and not self._rows:  # it was started for this
            same = [each.ms for each in asked if each.question == first.question]
            later = statistics.median(same or [each.ms for each in asked])
            ratio = {"of_later_ones": first.ms / later}
            times = Times.of([first.ms])
            rows.append(Row("clients", "first answer after ready", {}, times, parity, ratio))
        rate = per_s(asked)
        self._throughput = max(self._throughput, rate)
        figures = {"scans_per_s": rate, **peaks.gib}
        one = next((each for each in self._rows if each.settings.get("clients") == 1), None)
        if one is not None:
            figures["speed_of_one"] = rate / one.figures["scans_per_s"]
            if "peak_gib" in one.figures and "peak_gib" in figures:
                figures["memory_of_one"] = figures["peak_gib"] / one.figures["peak_gib"]
        settings = {"clients": clients, "transport": asked[0].scores.transport.kind}
        times = Times.of([each.ms for each in asked])
        rows.append(Row(row.table, row.name, settings, times, parity, figures))
        rows += [
            Row("inside Triton", model, {"clients": clients}, figures=inside_triton(each))
            for model, each in spent.items()
        ]
        return rows

    def _scenario(self, row: Row) -> Row:
        plan = self._plan
        job = LoadGenJob(
            self._questions, row.name, self._session.folder, queries=plan.requests,
            limit_s=plan.limit_s,
        )  # fmt: skip
        if row.name == "Server":
            return self._server(replace(job, at_once=AT_ONCE), row)
        if row.name == "Offline":
            # One query holds all its samples, so that it cannot be cut: as many as there is time.
            queries = max(1, min(plan.requests, int(self._throughput * plan.limit_s)))
            job = replace(job, queries=queries, at_once=max(plan.clients))
        done = self._test(job, row)
        self._throughput = max(self._throughput, done.figures["scans_per_s"])
        return done

    def _server(self, job: LoadGenJob, row: Row) -> Row:
        """The largest rate whose p99 stays within the limit, by halves.

        Only below the throughput that was measured before: of a rate above it the queue grows for
        ever, which a short run does not show.
        """
        good, bad = 0.0, self._throughput
        best, probes = row, []
        for _ in range(_PROBES):
            rate = (good + bad) / 2
            queries = max(_FEWEST, int(rate * job.limit_s / _PROBES))
            done = self._test(replace(job, queries=queries, rate_per_s=rate), row)
            within = done.figures["loadgen"].get("Performance constraints satisfied") == "Yes"
            p99_ms = None if done.times_ms is None else done.times_ms.p99
            probes.append({"rate_per_s": rate, "p99_ms": p99_ms, "within": within})
            if within:
                good, best = rate, replace(done, figures={**done.figures, "queries_per_s": rate})
            else:
                bad = rate
        if not good:
            why = f"p99 exceeds {LARGEST_P99_S:g} s at {bad:.3g} scans a second and above"
            best = replace(row, not_run=why)
        return replace(best, figures={**best.figures, "probes": probes})

    def _test(self, job: LoadGenJob, row: Row) -> Row:
        """One test of LoadGen's."""
        rate = f", {job.rate_per_s:.3g} scans a second" if job.rate_per_s else ""
        with self._session.stages.stage(f"LoadGen: {row.name}{rate}", job.queries) as advance:
            asked, summary = self._worker.ask(job, advance)
        figures: dict[str, Any] = {
            "scans_per_s": per_s(asked), "queries": len(asked),
            "loadgen_says": summary.get("Result is"), "loadgen": summary,
        }  # fmt: skip
        settings = {"at_once": job.at_once, "transport": asked[0].scores.transport.kind}
        times = Times.of([each.ms for each in asked])
        if row.name != "Offline":  # whose samples are all due at once
            # LoadGen's own, from when a query was due: in Server it also waits to be asked.
            names = ("50.00 percentile", "90.00 percentile", "99.00 percentile", "Min", "Max")
            told = (float(summary[f"{name} latency (ns)"]) / 1e6 for name in names)
            times = Times(len(asked), *told)
        parity = self._parity(row.name, asked)
        return Row(row.table, row.name, settings, times, parity, figures)
