"""What `ctclip predict` and `ctclip embed image` have in common: a run over one or many scans."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctclip_client import errors
from ctclip_client.batch.journal import Journal, Row
from ctclip_client.batch.names import Names
from ctclip_client.batch.plan import Plan, find, make_plan
from ctclip_client.cli.many_options import FEW, MOST_READERS
from ctclip_client.errors import EXIT_OK, EXIT_SOME_FAILED, CTClipError, InvalidInput, ServerError
from ctclip_client.system.terminal import printable, say

if TYPE_CHECKING:
    from ctclip_client import Classification, Client, Scan, Volume
    from ctclip_client.batch.progress import Counter
    from ctclip_client.cli.predictions import Prediction


@dataclass(frozen=True)
class Work:
    """What a command does with scans.

    what, done: its words for it ("Scoring", "scored"). ensemble: that it asks for. prepare: called
        once, when the server is known to be ready. score: asks the server about one scan, in one of
        several threads. row: the result as the journal keeps it, with its array or None. show:
        prints it; false once nobody reads what is printed, and no file takes it either.
    """

    what: str
    done: str
    ensemble: str
    prepare: Callable[[Client], None]
    score: Callable[[Client, Scan, Volume, float], Prediction]
    row: Callable[[Prediction], tuple[Row, Any]]
    show: Callable[[Prediction], bool]


def planned(args: argparse.Namespace, journal: Journal | None, names: Names) -> Plan:
    """Find what is to be done, and say it where it is more than one scan.

    Raises: InvalidInput, Unreadable.
    """

    def settled(each: Scan) -> str | None:
        entry = None if journal is None else journal.entries.get(names.key(each))
        state = (each.size_bytes, each.mtime_ns)
        if entry is None or entry.state != state or each.refused is not None:
            return None
        return None if entry.kind and args.retry_failed else entry.kind

    found = find(args.paths, args.files, getattr(args, "series", None))
    if args.files is None and not any(path.is_dir() for path in args.paths):
        return make_plan(found, names, settled)
    from ctclip_client.batch.progress import Counter

    say("looking for scans ...")
    with Counter("Looking for scans", None):
        return make_plan(found, names, settled)


def readers_of(args: argparse.Namespace, plan: Plan) -> int:
    """How many processes read; 0 is this one."""
    if plan.to_read < FEW:
        return 0
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    # As many as there are cores: where the server needs these, readers wait for it.
    wanted: int = min(MOST_READERS, cores) if args.readers is None else args.readers
    return min(wanted, plan.to_read)


def tell_plan(plan: Plan, journal: Journal | None, readers: int) -> None:
    """Say in a line or two what will be done."""
    resumed = journal is not None and journal.resumed
    if len(plan.scans) < 2 and not resumed:
        return
    count = len(plan.scans)
    parts = [f"plan: {count:,} scan{'s' * (count != 1)}, {plan.to_read:,} to read "
             f"({plan.size_bytes / 1e9:,.2f} GB)"]  # fmt: skip
    if readers:
        parts.append(f"{readers} process{'es' if readers > 1 else ''} to read them")
    if plan.twice:
        parts.append(f"{plan.twice:,} named more than once")
    say(", ".join(parts))
    if resumed and journal is not None:
        release = f" by release {journal.release}" if journal.release else ""
        say(
            f"going on from {journal.path}: {plan.done:,} done{release}, {len(plan.failed):,} "
            "failed" + (" (--retry-failed reads those again)" if plan.failed else "")
        )


def predicted(
    scores: Classification, scan: Scan, volume: Volume, names: Names, read_ms: float
) -> Prediction:
    """What is left to tell of a scan. Not the volume itself: the next scan needs its memory."""
    from ctclip_client.cli.predictions import Prediction
    from ctclip_client.coverage import coverage_notes

    coverage: tuple[str, ...] = ()
    with suppress(ServerError):  # it keeps its geometry to itself: that is no fault of the scores
        geometry, _ = scores.provenance.geometry()
        coverage = coverage_notes(volume.voxels.shape, volume.spacing_mm, geometry)
    path = scan.path
    source = names.source(volume.source, path)
    return Prediction(
        names.path(path), scores, volume.spacing_mm, volume.rescale, source, read_ms,
        coverage=coverage,
    )  # fmt: skip


def run_scans(args: argparse.Namespace, work: Work, plan: Plan, journal: Journal | None) -> int:
    """Read, ask, write and show; return the exit code. A scan that fails is told and the others go
    on.

    Raises: CTClipError for what ends the run; what was done so far is kept.
    """
    from ctclip_client.batch.pipeline import Outcome, Pipeline, Service
    from ctclip_client.batch.progress import Counter
    from ctclip_client.batch.reading import LocalReader, ProcessReader
    from ctclip_client.batch.service import provenance_of
    from ctclip_client.cli.flag_values import reading_options
    from ctclip_client.cli.serving import server_of

    names = Names(args.hash_names)
    options = reading_options(args)
    readers = readers_of(args, plan)
    tell_plan(plan, journal, readers)
    tally = _Tally(args, work, journal, names)
    if not plan.done and not plan.to_read:  # nothing to ask a server for
        for index, each in enumerate(plan.todo):
            tally.take(Outcome(index, each, error=each.refused))
        return tally.end(plan)
    with ExitStack() as stack:
        connection = stack.enter_context(server_of(args))
        joined = stack.enter_context(ExitStack())  # lanes end when the client is closed
        client = stack.enter_context(connection.client())
        # Once, and before thousands of scans are read for nothing.
        client.check_ready(work.ensemble)
        work.prepare(client)
        if journal is not None and journal.release:
            found = provenance_of(client)
            tally.check_release(journal.release if found is None else found.release)
        many = len(plan.scans) > 1
        counter: Counter | None = None
        if plan.todo and (many or sys.stderr.isatty()):
            counter = stack.enter_context(Counter(work.what, len(plan.todo) if many else None))
        tally.counter = counter
        pool = [ProcessReader(options) for _ in range(readers)]
        patient = many and args.repository is None  # nobody starts one's own again
        service = Service(
            score=lambda each, volume, read_ms: work.score(client, each, volume, read_ms),
            check=lambda: client.check_ready(work.ensemble),
            timeout_s=connection.timeout_s,
            wait_s=args.wait_s if patient else 0.0,
            say=lambda line: tally.say(f"note: {line}"),
        )
        pipeline = Pipeline(plan.todo, pool or [LocalReader(options)], service)
        joined.callback(pipeline.join)
        stack.callback(pipeline.close)
        for outcome in pipeline:
            if not tally.take(outcome):
                break
    return tally.end(plan)


class _Tally:
    """What came of the scans so far. Results are kept as they come, and shown in the order of the
    command line."""

    def __init__(
        self, args: argparse.Namespace, work: Work, journal: Journal | None, names: Names
    ) -> None:
        self.counter: Counter | None = None
        self._args, self._work, self._journal, self._names = args, work, journal, names
        self._release = ""
        self._done = 0
        self._codes: list[int] = []  # not the errors: they hold their scans by the traceback
        self._next = 0
        self._later: dict[int, Prediction | None] = {}
        self._remedy = ""  # that was said last

    def check_release(self, release: str) -> None:
        """Raises: InvalidInput where it is another one than that of the rows, or of the answers so
        far."""
        known = (self._journal.release if self._journal else "") or self._release
        if known and release != known:
            where = f"{self._journal.path}: holds" if self._journal else "the run so far has"
            raise other_release(where, known, release)
        self._release = release

    def take(self, outcome: Any) -> bool:
        """Keep and show an outcome; false where the run need not go on: nobody reads it.

        Raises: CTClipError where the run must not go on.
        """
        from ctclip_client.batch.pipeline import raise_stop

        if outcome.stop is not None:
            raise_stop(outcome.stop)
        if outcome.error is not None:
            self._keep_error(outcome.scan, outcome.error)
        else:
            scored: Prediction = outcome.result
            provenance = scored.scores.provenance
            self.check_release(provenance.release)
            if self._journal is not None:
                row, vector = self._work.row(scored)
                scan = outcome.scan
                marks = {"series": self._names.series(scan.series), "size_bytes": scan.size_bytes,
                         "mtime_ns": scan.mtime_ns, "sha256": scored.source.sha256,
                         "release": provenance.release}  # fmt: skip
                self._journal.append({"path": scored.path, **marks, **row}, vector)
        if not self._show(outcome.index, outcome.result):
            return False
        if self.counter is not None:
            self.counter.advance()
        return True

    def say(self, line: str) -> None:
        """A line for a person, from any thread."""
        line = printable(line)
        if self.counter is not None:
            self.counter.say(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def end(self, plan: Plan) -> int:
        """Say how it went; return the exit code."""
        count = len(plan.scans)
        codes = [*self._codes, *map(_code, plan.failed)]
        if count > 1:
            done = f", {plan.done} done before" if plan.done else ""
            left = count - self._done - len(codes) - plan.done
            why = f", {left} left: nobody reads standard output" if left else ""
            say(f"{count} scans: {self._done} {self._work.done}, {len(codes)} failed{done}{why}")
        if not codes:
            return EXIT_OK
        return EXIT_SOME_FAILED if self._done or plan.done else max(codes)

    def _keep_error(self, scan: Scan, error: CTClipError) -> None:
        told = self._names.error(error, scan.path)
        self._codes.append(error.exit_code)
        self.say(_cause(*self._names.key(scan), told))
        if told.remedy != self._remedy:  # as of the slices of a folder, named one by one
            self._remedy = told.remedy
            if told.remedy:
                self.say(f"       {told.remedy}")
        if self._journal is None:
            return
        entry = self._journal.entries.get(self._names.key(scan))
        state = (scan.size_bytes, scan.mtime_ns)
        if scan.refused is not None and entry is not None and entry.state == state:
            return  # it is known, and was looked at again for nothing
        path, series = self._names.key(scan)
        self._journal.append(
            {
                "path": path, "series": series, "size_bytes": state[0], "mtime_ns": state[1],
                "sha256": None, "release": self._release,
                "error": {"kind": type(error).__name__, "cause": told.cause, "remedy": told.remedy},
            }
        )  # fmt: skip

    def _show(self, index: int, scored: Prediction | None) -> bool:
        """Print what has its turn; false once nobody reads it."""
        self._later[index] = scored
        while self._next in self._later:
            current = self._later.pop(self._next)
            self._next += 1
            if current is None:
                continue
            self._done += 1
            if self.counter is None:
                read = self._work.show(current)
            else:
                with self.counter.paused():
                    # What cannot be written ends the run: it is not this scan's fault.
                    read = self._work.show(current)
            if not read:
                return False
        return True


def other_release(where: str, known: str, found: str) -> InvalidInput:
    """The error for a server whose release is not that of the results. where: they are."""
    return InvalidInput(
        f"{where} results of release {known}; the server has release {found} now.",
        "What is there is kept, and results of two releases are not mixed. Name another file for "
        "the new release, or let everything be done anew with --again.",
    )


def _cause(name: str, series: str | None, error: CTClipError) -> str:
    """series: a folder may hold thousands, and `name` is all of it."""
    whole = name if series is None else f"{name} (series {series})"
    cause = error.cause.removeprefix(f"{name}: ")
    return f"error: {cause if series is None and name in cause else f'{whole}: {cause}'}"


def _code(kind: str) -> int:
    code: int = getattr(getattr(errors, kind, InvalidInput), "exit_code", errors.EXIT_USAGE)
    return code
