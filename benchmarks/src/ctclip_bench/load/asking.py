"""Questions to a server, asked by so many clients at once.

Imports NumPy and the client only: the process that asks (`worker`) stays as small as a client is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import numpy as np

from ctclip_client import Client, Finding, Scores, Volume
from ctclip_client.readers.format import Options
from ctclip_client.readers.registry import format_of
from ctclip_client.readers.to_volume import to_volume
from ctclip_client.transport.connection import Connection

Advance = Callable[[int], None]
READ, TO_VOLUME, PACK, INFER = "read, decompress", "to volume", "pack", "infer"
"""What `FileJob` takes the time of."""


@dataclass(frozen=True)
class Question:
    """A volume on disk, and sentences for it; without them it is scored by the release's own bank.

    stored: a .npy of the voxels in the order of a CT file, (z, y, x): packing an array that lies
    otherwise in memory would cost another time.
    """

    stored: Path
    spacing_mm: tuple[float, float, float]
    rescale: tuple[float, float]
    prompts: tuple[Finding, ...] = ()

    @classmethod
    def keep(cls, volume: Volume, path: Path, prompts: Sequence[Finding] = ()) -> Self:
        """Write a volume to a .npy. Raises: OSError."""
        np.save(path, volume.voxels.transpose(0, 2, 1))
        return cls(path, volume.spacing_mm, volume.rescale, tuple(prompts))

    def volume(self) -> Volume:
        """Read it."""
        voxels = np.load(self.stored).transpose(0, 2, 1)
        return Volume.from_array(voxels, self.spacing_mm, self.rescale)


@dataclass(frozen=True)
class Asked:
    """One answered request. question: its number. start_s, end_s: of `time.perf_counter`."""

    question: int
    start_s: float
    end_s: float
    scores: Scores

    @property
    def ms(self) -> float:
        """Milliseconds from the call to its answer."""
        return (self.end_s - self.start_s) * 1000


class Caller:
    """Connections to one server, each with one request at a time."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._clients: list[Client] = []
        self._free: SimpleQueue[Client] = SimpleQueue()
        self._volumes: dict[Path, Volume] = {}

    def ready(self, count: int, questions: Sequence[Question]) -> None:
        """So many connections, and the questions' volumes in memory. Raises: CTClipError."""
        kept = self._volumes
        self._volumes = {
            each.stored: kept[each.stored] if each.stored in kept else each.volume()
            for each in questions
        }
        while len(self._clients) < count:
            # A refusal is a figure, too.
            self._clients.append(self.connection.client(retries=0))
            self._free.put(self._clients[-1])
        for client in self._clients[:count]:
            client.check_ready()

    def ask(self, question: Question, number: int) -> Asked:
        """Wait for a free connection and ask. Raises: CTClipError."""
        volume = self._volumes[question.stored]
        client = self._free.get()
        try:
            start_s = time.perf_counter()
            if question.prompts:
                scores = client.zero_shot(volume, question.prompts)
            else:
                scores = client.pathologies(volume)
            end_s = time.perf_counter()
        finally:
            self._free.put(client)
        return Asked(number, start_s, end_s, scores)

    def close(self) -> None:
        """End what is under way and give back its shared memory; all at once, since each connection
        may wait for the server."""
        with ThreadPoolExecutor(max(len(self._clients), 1)) as pool:
            list(pool.map(Client.close, self._clients))


@dataclass(frozen=True)
class ClosedLoop:
    """A job for `worker`: each client sends its next scan when its last one is answered.

    Questions take turns; each client asks one at least. requests: in all, or fewer where limit_s
    seconds are over first.
    """

    questions: tuple[Question, ...]
    clients: int = 1
    requests: int = 1
    limit_s: float = 0.0

    def run(self, caller: Caller, advance: Advance) -> list[Asked]:
        """In the other process. Raises: CTClipError, the first one of any client."""
        caller.ready(self.clients, self.questions)
        end_s = time.perf_counter() + self.limit_s

        def ask(number: int) -> Asked | None:
            if number >= self.clients and time.perf_counter() > end_s:
                return None
            which = number % len(self.questions)
            answered = caller.ask(self.questions[which], which)
            advance(1)
            return answered

        with ThreadPoolExecutor(self.clients) as pool:
            asking = [pool.submit(ask, n) for n in range(max(self.requests, self.clients))]
            try:
                for each in as_completed(asking):
                    each.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                caller.close()  # those under way would be waited for
                raise
        return [found for each in asking if (found := each.result()) is not None]


def per_s(asked: Sequence[Asked]) -> float:
    """Answers over the time from the first request to the last answer."""
    return len(asked) / (max(each.end_s for each in asked) - min(each.start_s for each in asked))


@dataclass(frozen=True)
class FileJob:
    """A job for `worker`: from a CT file to its findings, stages apart. number: of the file.
    shared_memory: whether it may be used, as by default."""

    path: Path
    number: int
    shared_memory: bool

    def run(self, caller: Caller, advance: Advance) -> tuple[Asked, dict[str, float], float]:
        """What `read_volume` and `Client.pathologies` do, over a connection that is open.

        Returns the answer, timed from the file's name; milliseconds of READ, TO_VOLUME, PACK and
        INFER; seconds of a core.
        """
        to = caller.connection
        with Client(
            to.url, to.timeout_s, shared_memory="auto" if self.shared_memory else False,
            retries=0, tls=to.tls, headers=to.headers,
        ) as client:  # fmt: skip
            client.check_ready()
            cores = time.process_time()
            start = time.perf_counter()
            form, options = format_of(self.path), Options()
            stored = form.read(self.path, form.series(self.path)[0], options)
            voxels = stored.voxels()
            read = time.perf_counter()
            volume = to_volume(replace(stored, voxels=lambda: voxels), self.path, options)
            made = time.perf_counter()
            scores = client.pathologies(volume)
            end = time.perf_counter()
            cores = time.process_time() - cores
        advance(1)
        ms = {READ: (read - start) * 1000, TO_VOLUME: (made - read) * 1000}
        ms |= {name: scores.timings_ms[name] for name in (PACK, INFER)}
        return Asked(self.number, start, end, scores), ms, cores
