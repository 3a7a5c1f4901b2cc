"""The whole measurement: verdict first, then every level of load."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from ctclip_bench.load.agreement import JudgedAnswers, compare_with_reference
from ctclip_bench.load.figures import Level, make_level
from ctclip_bench.load.load import Amount, Sample, Starter, Workload, closed_loop, open_loop
from ctclip_bench.load.memory import Usage, Watch, gpu_memory
from ctclip_bench.load.server import Raw, Server, without_address
from ctclip_bench.load.statistics import Spent, difference
from ctclip_bench.load.workloads import prepared, split, texts, vision_batches, whole_path
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_client import Volume
from ctclip_client.contract import VISION
from ctclip_client.errors import CTClipError, DeadlineExceeded, Unavailable
from ctclip_client.system.progress import Advance, Stages

A = TypeVar("A")
_NO_SHARED_MEMORY = (
    "No shared memory with the server: the vision model's volumes were sent in messages, which is "
    "in its latency. Enlarge /dev/shm (shm_size of a container), or allow it in the server."
)


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


def measure(
    server: Server,
    inputs: ParityInputs,
    volumes: Sequence[Volume],
    plan: Plan,
    stages: Stages,
    *,
    gpu_before_bytes: int | None = None,
) -> Measurement:
    """Judge, and only where that passes, measure.

    volumes: of inputs.scans, in their order.
    gpu_before_bytes: memory in use on the GPU before this server was started, if that is known.
    A level that cannot be measured is kept with its reason, and the next one is tried, unless the
    server has gone.
    Raises: InvalidInput, ServiceError, before the first level.
    """
    agreement = compare_with_reference(server, inputs, volumes, stages)
    if not agreement.passed:
        return Measurement(agreement)
    load = _Load(server, inputs, volumes, plan, stages, agreement)
    read_gpu = gpu_memory if server.on_this_machine else lambda: None
    with Watch(read_gpu, gpu_before_bytes) as gpu, Watch(server.memory_bytes) as process:
        load.run()
    return Measurement(
        agreement,
        **{kind: tuple(levels) for kind, levels in load.levels.items()},
        gpu=gpu.usage,
        process=process.usage,
        notes=tuple(load.notes),
        gone_at=load.gone_at,
    )


@dataclass(frozen=True)
class _Task:
    """One level that is to be measured. kind: of `Measurement`. load: what the level is.

    run: None where it could not be prepared, because the server has gone. units: volumes or texts
    in one request.
    """

    kind: str
    name: str
    load: Mapping[str, float | str]
    run: Callable[[Starter, Advance], list[Sample]] | None
    units: int = 1


@dataclass
class _Load:
    """Runs the levels, one after the other."""

    server: Server
    inputs: ParityInputs
    volumes: Sequence[Volume]
    plan: Plan
    stages: Stages
    agreement: JudgedAnswers
    levels: dict[str, list[Level]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)
    gone_at: str = ""
    not_tried: str = ""

    def run(self) -> None:
        with Raw(self.server) as raw, closing(self._tasks()) as tasks:
            read: Callable[[], dict[str, Spent]] = raw.statistics
            try:
                read()
            except CTClipError as error:  # restricted, for instance; latencies are still to be had
                self.notes.append(f"no statistics from Triton: {type(error).__name__}")
                read = dict
            for task in tasks:
                self.levels[task.kind].append(self._level(task, read))

    def _tasks(self) -> Generator[_Task]:
        work = whole_path(self.server, self.volumes, self.agreement)
        for clients in self.plan.concurrency:
            name = f"Whole path, {_count(clients, 'client')}"
            yield _Task("whole_path", name, {"clients": clients}, self._closed(work, clients))
        for rate in self.plan.rates:
            name = f"Whole path, {rate:g} scans a second arrive"
            arrive = partial(open_loop, work, rate, self.plan.amount)
            yield _Task("arrivals", name, {"rate_per_s": rate}, arrive)
        if self.plan.batches:
            yield from self._vision_tasks()
        for count in self.plan.texts:
            run = self._closed(texts(self.server, self.inputs, count, self.agreement))
            yield _Task(
                "texts", f"Text encoder, {_count(count, 'text')}", {"texts": count}, run, count
            )

    def _vision_tasks(self) -> Generator[_Task]:
        limit = VISION.max_batch_size
        order = np.arange(min(max(self.plan.batches), limit)) % len(self.volumes)
        expected = np.stack([scores.image_embedding for scores in self.agreement.served])[order]
        with ExitStack() as stack:
            batches = None
            if not self.gone_at:
                with self.stages.stage("Vision model: prepare its volumes"):
                    voxels = prepared(self.inputs, self.volumes)[order]
                batches = stack.enter_context(vision_batches(self.server, voxels))
                if batches.transport == "grpc" and self.server.on_this_machine:
                    self.notes.append(_NO_SHARED_MEMORY)
            for batch in self.plan.batches:
                sizes = split(batch, limit)
                load: dict[str, float | str] = {
                    "volumes": batch, "requests_at_once": len(sizes),
                    "sent_as": " + ".join(map(str, sizes)),
                    "transport": "none" if batches is None else batches.transport,
                }  # fmt: skip
                run = None
                if batches is not None:
                    run = self._closed(batches.work(sizes, expected, self.agreement))
                name = f"Vision model, {_count(batch, 'volume')}"
                yield _Task("vision", name, load, run, batch)

    def _closed(
        self, work: Workload[A], clients: int = 1
    ) -> Callable[[Starter, Advance], list[Sample]]:
        return partial(closed_loop, work, clients, self.plan.amount)

    def _level(self, task: _Task, read: Callable[[], dict[str, Spent]]) -> Level:
        samples: list[Sample] = []
        before: dict[str, Spent] = {}
        spent: dict[str, Spent] = {}
        error: CTClipError | None = None
        if task.run is not None and not self.gone_at:
            with self.stages.stage(task.name, self.plan.amount.requests) as advance:
                try:
                    samples = task.run(lambda: before.update(read()), advance)
                    spent = difference(read(), before)
                except CTClipError as caught:  # the other levels are worth an hour, perhaps
                    error = caught
        level = make_level(task.name, task.load, task.units, samples, spent or None)
        if self.gone_at:
            return replace(level, failure=self.not_tried)
        every = (error, *(sample.error for sample in samples))
        lost = next((e for e in every if isinstance(e, Unavailable | DeadlineExceeded)), None)
        silence = None if lost is None else self.server.silence()
        if silence is not None:
            self.gone_at = task.name
            self.not_tried = f"not tried: the server no longer answers ({self._said(silence)})"
            error = error or lost  # what was measured was a server that is ending
        elif error is None and level.n == 0:
            error = level.first_error
        return replace(level, failure="" if error is None else self._said(error))

    def _said(self, error: CTClipError) -> str:
        return f"{type(error).__name__}: {without_address(error.cause, self.server.url)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
