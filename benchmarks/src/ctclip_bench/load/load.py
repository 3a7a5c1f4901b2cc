"""Put a server under load: so many clients that wait for their answers, or arrivals that do not."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import CTClipError
from ctclip_client.system.progress import Advance

A = TypeVar("A")
LONGEST_QUEUE = 64
"""Requests of an open loop that may be under way at once; more have to wait for a free client, and
their waiting counts as latency."""


@dataclass(frozen=True)
class Workload(Generic[A]):
    """What one client does again and again.

    connect: opens a connection and gives the function that performs request number i.
    inspect: "" for the right answer, otherwise what is wrong with it; its time is not measured.
    parts: milliseconds of stages that the client measured itself.
    """

    connect: Callable[[], AbstractContextManager[Callable[[int], A]]]
    inspect: Callable[[int, A], str]
    parts: Callable[[A], Mapping[str, float]] = lambda _: {}


@dataclass(frozen=True)
class Sample:
    """One request: seconds on the clock of `time.perf_counter`, its error, its complaint.

    start_s: when it was sent; in an open loop, when it should have been.
    """

    start_s: float
    end_s: float
    error: CTClipError | None = None
    complaint: str = ""
    parts_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Amount:
    """How long a level lasts: `requests` in all, or `limit_s` seconds if they are over first.

    warmup: requests of each client before the clock starts; not in any number. No level has fewer
    requests than clients: with fewer, its concurrency would be a smaller one.
    """

    requests: int
    warmup: int
    limit_s: float


Starter = Callable[[], None]


def closed_loop(
    work: Workload[A],
    clients: int,
    amount: Amount,
    started: Starter = lambda: None,
    advance: Advance = lambda _: None,
) -> list[Sample]:
    """Each client sends its next request when its last one is answered.

    started: called when every client is connected and warm, before the first measured request.
    Raises: CTClipError if a client cannot be connected or warmed up.
    """
    total = max(amount.requests, clients)
    numbers = itertools.count()
    crew = _Crew[A](work, clients, amount.warmup, started, advance)

    def serve(ask: Callable[[int], A]) -> None:
        while True:
            number = next(numbers)  # one bytecode under the interpreter's lock: no number twice
            over = time.perf_counter() > crew.start_s + amount.limit_s
            if number >= total or (over and number >= clients):
                return
            crew.record(ask, number, time.perf_counter())

    return crew.run(serve)


def open_loop(
    work: Workload[A],
    rate_per_s: float,
    amount: Amount,
    started: Starter = lambda: None,
    advance: Advance = lambda _: None,
) -> list[Sample]:
    """Requests arrive at their own times (Poisson), whether the server is ready for them or not.

    Latency counts from the arrival, so that a queue that grows is seen: waiting clients of a closed
    loop would hide it. Raises: CTClipError as in `closed_loop`.
    """
    arrivals = poisson_arrivals(rate_per_s, amount.requests)
    arrivals = arrivals[arrivals <= max(amount.limit_s, arrivals[0])]
    clients = min(LONGEST_QUEUE, len(arrivals))
    waiting: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
    for number, offset in enumerate(arrivals):
        waiting.put((number, float(offset)))
    with work.connect() as ask:  # the server is warmed up; so many clients at once would swamp it
        for number in range(amount.warmup):
            ask(number)
    crew = _Crew[A](work, clients, 0, started, advance)

    def serve(ask: Callable[[int], A]) -> None:
        while True:
            try:
                number, offset = waiting.get_nowait()
            except queue.Empty:
                return
            due = crew.start_s + offset
            time.sleep(max(0.0, due - time.perf_counter()))
            crew.record(ask, number, due)

    return crew.run(serve)


def poisson_arrivals(rate_per_s: float, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Seconds (count,) at which requests arrive, with exponential gaps of mean 1 / rate."""
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, count)
    arrivals: NDArray[np.float64] = np.cumsum(gaps)
    return arrivals


class _Crew(Generic[A]):
    """Threads, each with a connection of its own, that start together."""

    def __init__(
        self, work: Workload[A], size: int, warmup: int, started: Starter, advance: Advance
    ) -> None:
        self.work, self.warmup, self.advance = work, warmup, advance
        self.start_s = 0.0
        self._started = started
        self._samples: queue.SimpleQueue[Sample] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._open: list[ExitStack] = []
        self._abandoned = False
        self._gate = threading.Barrier(size, self._begin)
        self._size = size

    def run(self, serve: Callable[[Callable[[int], A]], None]) -> list[Sample]:
        # Daemons: an interrupted measurement must not wait for answers that take a minute.
        threads = [
            threading.Thread(target=self._client, args=(serve, index), daemon=True)
            for index in range(self._size)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._abandon()
            raise
        if self._failure is not None:
            raise self._failure
        return [self._samples.get() for _ in range(self._samples.qsize())]

    def record(self, ask: Callable[[int], A], number: int, start_s: float) -> None:
        """Perform one measured request. An error of the service is a result, any other is not."""
        try:
            answer = ask(number)
        except CTClipError as error:
            if self._abandoned:
                raise
            self._samples.put(Sample(start_s, time.perf_counter(), error))
        else:
            end_s = time.perf_counter()
            complaint = self.work.inspect(number, answer)
            self._samples.put(
                Sample(start_s, end_s, None, complaint, dict(self.work.parts(answer)))
            )
        self.advance(1)

    def _abandon(self) -> None:
        """Close the connections of an interrupted measurement: that ends what is under way, and
        gives back the shared memory of it. All at once, since each may wait for the server."""
        self._abandoned = True
        closing = [threading.Thread(target=stack.close) for stack in tuple(self._open)]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def _begin(self) -> None:
        self._started()
        self.start_s = time.perf_counter()

    def _client(self, serve: Callable[[Callable[[int], A]], None], index: int) -> None:
        try:
            with ExitStack() as stack:
                self._open.append(stack)
                ask = stack.enter_context(self.work.connect())
                for number in range(self.warmup):
                    ask(index + number)
                self._gate.wait()
                serve(ask)
        except threading.BrokenBarrierError:
            return  # another client failed first, and has said why
        except BaseException as error:  # noqa: BLE001 (carried into the thread that waits)
            self._failure = self._failure or error
            self._gate.abort()
