"""The whole measurement: verdict first, then every level of load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from ctclip_bench.load.agreement import JudgedAnswers, compare_with_reference
from ctclip_bench.load.figures import Level, make_level
from ctclip_bench.load.load import Amount, Sample, Starter, Work, closed_loop, open_loop
from ctclip_bench.load.memory import Usage, Watch, gpu_memory
from ctclip_bench.load.server import Server, without_address
from ctclip_bench.load.statistics import Spent, difference
from ctclip_bench.load.workloads import prepared, split, texts, vision_batches, whole_path
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_client import Volume
from ctclip_client.contract import VISION
from ctclip_client.errors import CTClipError, DeadlineExceeded, Unavailable
from ctclip_client.system.progress import Advance, Stages

A = TypeVar("A")


@dataclass(frozen=True)
class Plan:
    """The levels of load. concurrency: clients at once. batches: volumes for the vision model at
    once. texts: sentences in one request. rates: requests a second that arrive by themselves.
    """

    concurrency: tuple[int, ...]
    batches: tuple[int, ...]
    texts: tuple[int, ...]
    rates: tuple[float, ...]
    amount: Amount


@dataclass(frozen=True)
class Measurement:
    """Everything that was found. Without a passed verdict there are no levels.

    gpu, process: memory, None where there is no such thing or it cannot be read from here.
    gone_at: the level at which the server stopped answering; those after it were not tried.
    """

    agreement: JudgedAnswers
    whole_path: tuple[Level, ...] = ()
    arrivals: tuple[Level, ...] = ()
    vision: tuple[Level, ...] = ()
    texts: tuple[Level, ...] = ()
    gpu: Usage | None = None
    process: Usage | None = None
    notes: tuple[str, ...] = ()
    gone_at: str = ""

    @property
    def levels(self) -> tuple[Level, ...]:
        """All of them, in the order of the report."""
        return (*self.whole_path, *self.arrivals, *self.vision, *self.texts)

    @property
    def wrong(self) -> tuple[str, ...]:
        """What was wrong with timed answers."""
        return tuple(f"{level.name}: {text}" for level in self.levels for text in level.wrong)

    @property
    def failed(self) -> tuple[str, ...]:
        """The levels that could not be measured, each with the reason."""
        return tuple(f"{level.name}: {level.failure}" for level in self.levels if level.failure)

    @property
    def right(self) -> bool:
        """The verdict before the load, and every answer under it."""
        return self.agreement.passed and not self.wrong

    @property
    def passed(self) -> bool:
        """Right, and complete."""
        return self.right and not self.failed

    @property
    def failed_requests(self) -> int:
        """Requests that got an error instead of an answer."""
        return sum(sum(level.errors.values()) for level in self.levels)


@dataclass(frozen=True)
class Subject:
    """What is measured. volumes: of inputs.scans, in their order."""

    server: Server
    inputs: ParityInputs
    volumes: Sequence[Volume]


def measure(
    subject: Subject, plan: Plan, stages: Stages, gpu_before_bytes: int | None = None
) -> Measurement:
    """Judge, and only where that passes, measure.

    gpu_before_bytes: memory in use on the GPU before this server was started, if that is known.
    A level that cannot be measured is kept with its reason, and the next one is tried, unless the
    server has gone.
    Raises: InvalidInput, ServiceError, before the first level.
    """
    server = subject.server
    agreement = compare_with_reference(server, subject.inputs, subject.volumes, stages)
    if not agreement.passed:
        return Measurement(agreement)
    with (
        Watch(gpu_memory if server.on_this_machine else _unknown, gpu_before_bytes) as gpu,
        Watch(server.memory_bytes) as process,
    ):
        load = _Load(subject, plan, stages, agreement)
        load.run()
    return Measurement(
        agreement,
        **{kind: tuple(levels) for kind, levels in load.levels.items()},
        gpu=gpu.usage,
        process=process.usage,
        notes=tuple(load.notes),
        gone_at=load.gone_at,
    )


def _unknown() -> None:
    return None


@dataclass(frozen=True)
class _What:
    """kind: of `Measurement`. load: what the level is. units: volumes or texts in one request."""

    kind: str
    load: Mapping[str, float | str]
    units: int = 1


class _Load:
    """Runs the levels, one after the other."""

    def __init__(
        self, subject: Subject, plan: Plan, stages: Stages, agreement: JudgedAnswers
    ) -> None:
        self.server, self.inputs, self.volumes = subject.server, subject.inputs, subject.volumes
        self.plan, self.stages, self.agreement = plan, stages, agreement
        self.levels: dict[str, list[Level]] = {
            "whole_path": [], "arrivals": [], "vision": [], "texts": [],
        }  # fmt: skip
        self.notes: list[str] = []
        self.gone_at = ""
        self._not_tried = ""
        self._read: Callable[[], dict[str, Spent]] = dict

    def run(self) -> None:
        with self.server.questions() as raw:
            try:
                raw.statistics()
            except CTClipError as error:  # restricted, for instance; latencies are still to be had
                self.notes.append(f"no statistics from Triton: {type(error).__name__}")
            else:
                self._read = raw.statistics
            self._whole_path()
            self._vision()
            self._texts()

    def _whole_path(self) -> None:
        work = whole_path(self.server, self.volumes, self.agreement)
        for clients in self.plan.concurrency:
            name = f"Whole path, {_count(clients, 'client')}"
            self._closed(name, _What("whole_path", {"clients": clients}), work, clients)
        for rate in self.plan.rates:
            name = f"Whole path, {rate:g} scans a second arrive"
            run = partial(open_loop, work, rate, self.plan.amount)
            what = _What("arrivals", {"rate_per_s": rate})
            self._level(name, what, run, self.plan.amount.requests)

    def _vision(self) -> None:
        if not self.plan.batches:
            return
        if self.gone_at:
            for batch in self.plan.batches:
                self._keep(*self._batch(batch, "none"), [], None)
            return
        limit = VISION.max_batch_size
        order = np.arange(min(max(self.plan.batches), limit)) % len(self.volumes)
        with self.stages.stage("Vision model: prepare its volumes"):
            voxels = prepared(self.inputs, self.volumes)[order]
        expected = np.stack([scores.image_embedding for scores in self.agreement.served])[order]
        with vision_batches(self.server, voxels) as batches:
            self.notes += [batches.note] if batches.note else []
            for batch in self.plan.batches:
                work = batches.work(split(batch, limit), expected, self.agreement)
                self._closed(*self._batch(batch, batches.transport), work)

    @staticmethod
    def _batch(batch: int, transport: str) -> tuple[str, _What]:
        sizes = split(batch, VISION.max_batch_size)
        load: dict[str, float | str] = {
            "volumes": batch, "requests_at_once": len(sizes),
            "sent_as": " + ".join(map(str, sizes)), "transport": transport,
        }  # fmt: skip
        return f"Vision model, {_count(batch, 'volume')}", _What("vision", load, batch)

    def _texts(self) -> None:
        for count in self.plan.texts:
            work = texts(self.server, self.inputs, count, self.agreement)
            name = f"Text encoder, {_count(count, 'text')}"
            self._closed(name, _What("texts", {"texts": count}, count), work)

    def _closed(self, name: str, what: _What, work: Work[A], clients: int = 1) -> None:
        def run(started: Starter, advance: Advance) -> list[Sample]:
            return closed_loop(work, clients, self.plan.amount, started, advance)

        self._level(name, what, run, max(self.plan.amount.requests, clients))

    def _level(
        self,
        name: str,
        what: _What,
        run: Callable[[Starter, Advance], list[Sample]],
        requests: int,
    ) -> None:
        if self.gone_at:
            self._keep(name, what, [], None)
            return
        before: dict[str, Spent] = {}
        samples: list[Sample] = []
        spent: dict[str, Spent] = {}
        error: CTClipError | None = None
        with self.stages.stage(name, requests) as advance:
            try:
                samples = run(lambda: before.update(self._read()), advance)
                spent = difference(self._read(), before)
            except CTClipError as caught:  # the other levels are worth an hour, perhaps
                error = caught
        self._keep(name, what, samples, error, spent)

    def _keep(
        self,
        name: str,
        what: _What,
        samples: Sequence[Sample],
        error: CTClipError | None,
        spent: Mapping[str, Spent] | None = None,
    ) -> None:
        level = make_level(name, what.load, what.units, samples, spent or None)
        failure = self._not_tried
        if not failure:
            lost = _lost(samples, error)
            if lost is not None and self._has_gone():
                self.gone_at = name
                error = error or lost  # what was measured was a server that is ending
            elif error is None and level.n == 0:
                error = level.first_error
            failure = "" if error is None else self._said(error)
        self.levels[what.kind].append(replace(level, failure=failure))

    def _has_gone(self) -> bool:
        """Ask a server that has left requests without an answer for a sign of life."""
        silence = self.server.silence()
        if silence is not None:
            said = self._said(silence)
            self._not_tried = f"not tried: the server no longer answers ({said})"
        return silence is not None

    def _said(self, error: CTClipError) -> str:
        return f"{type(error).__name__}: {without_address(error.cause, self.server.url)}"


def _lost(samples: Sequence[Sample], error: CTClipError | None) -> CTClipError | None:
    """The first of a level's errors after which the server may be gone."""
    every = (error, *(sample.error for sample in samples))
    return next((each for each in every if isinstance(each, Unavailable | DeadlineExceeded)), None)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
