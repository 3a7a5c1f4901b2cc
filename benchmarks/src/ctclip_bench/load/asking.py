"""Questions to a server, asked by so many clients at once, and whether an answer repeats another.

Imports NumPy and the client only: the process that asks (`worker`) stays as small as a client is.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ctclip_client import Client, Finding, Scores, Volume
from ctclip_client.transport.connection import Connection

Advance = Callable[[int], None]
Answer = NDArray[np.float32]
"""(3F + E,): logits (F, 2), probabilities (F,), embedding (E,), one after the other."""


def flat(scores: Scores) -> Answer:
    """The numbers of a client's answer."""
    parts = (scores.logits.reshape(-1), scores.probabilities, scores.image_embedding)
    answer: Answer = np.concatenate(parts).astype("<f4")
    return answer


def parts_of(answer: Answer, findings: int) -> tuple[Answer, Answer, Answer]:
    """Logits (F, 2), probabilities (F,) and embedding (E,) of F findings.

    Raises: ValueError for numbers that are no such answer.
    """
    if len(answer) <= 3 * findings:
        raise ValueError(f"{len(answer)} numbers for {findings} findings")
    logits, probabilities, embedding = np.split(answer, [2 * findings, 3 * findings])
    return logits.reshape(findings, 2), probabilities, embedding


@dataclass(frozen=True, eq=False)
class Expected:
    """The judged answer, and the release's bounds for others: the least cosine of the embeddings,
    the largest |difference| of a probability."""

    answer: Answer
    cosine: float
    probability: float

    def complaint(self, got: Answer, findings: int) -> str:
        """What is wrong with another answer, "" if nothing is. NaN passes nothing."""
        if got.shape != self.answer.shape:
            return f"{len(got)} numbers, expected {len(self.answer)}"
        _, probabilities, embedding = parts_of(got, findings)
        _, known, other = parts_of(self.answer, findings)
        a, b = embedding.astype(np.float64), other.astype(np.float64)
        cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        if not cosine >= self.cosine:
            return f"cosine of the embedding {cosine:.6f}, expected {self.cosine}"
        largest = float(np.abs(probabilities - known).max())
        if not largest <= self.probability:
            return f"|Δprobability| {largest:.1e}, allowed {self.probability:g}"
        return ""


@dataclass(frozen=True, eq=False)
class Question:
    """A volume on disk, and sentences for it; without them it is scored by the release's own bank.

    axes: of the stored array, those of the volume (z, x, y) in the order of their strides: packing
    an array that lies otherwise in memory would cost another time.
    """

    stored: Path
    axes: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    rescale: tuple[float, float]
    prompts: tuple[Finding, ...] = ()
    expected: Expected | None = None

    @classmethod
    def keep(cls, volume: Volume, path: Path, prompts: Sequence[Finding] = ()) -> Self:
        """Write a volume to a .npy. Raises: OSError."""
        strides = [abs(stride) for stride in volume.voxels.strides]
        z, x, y = sorted(range(3), key=lambda axis: -strides[axis])
        np.save(path, volume.voxels.transpose(z, x, y))
        return cls(path, (z, x, y), volume.spacing_mm, volume.rescale, tuple(prompts))

    def volume(self) -> Volume:
        """Read it."""
        voxels = np.load(self.stored).transpose(np.argsort(self.axes))
        return Volume.from_array(voxels, self.spacing_mm, self.rescale)


@dataclass(frozen=True)
class Asked:
    """One answered request. question: its number. start_s, end_s: of `time.perf_counter`.

    sent_bytes: of the tensors, as they travelled by `transport`. complaint: why the answer is not
    the expected one, "" if it is, or nobody expects one.
    """

    question: int
    start_s: float
    end_s: float
    answer: Answer
    sent_bytes: int
    transport: str
    release: str
    complaint: str = ""

    @classmethod
    def of(
        cls, scores: Scores, times_s: tuple[float, float], number: int, expected: Expected | None
    ) -> Self:
        """times_s: start and end."""
        answer = flat(scores)
        complaint = "" if expected is None else expected.complaint(answer, len(scores.findings))
        sent = scores.transport
        return cls(
            number, *times_s, answer, sent.bytes, sent.kind, scores.provenance.release, complaint
        )

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
            self._clients.append(self.connection.client())
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
        return Asked.of(scores, (start_s, end_s), number, question.expected)

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
        total = max(self.requests, self.clients)
        numbers = itertools.count()
        end_s = time.perf_counter() + self.limit_s
        asked: list[Asked] = []

        def serve() -> None:
            for number in numbers:  # one step under the interpreter's lock: no number twice
                late = time.perf_counter() > end_s
                if number >= total or (late and number >= self.clients):
                    return
                which = number % len(self.questions)
                asked.append(caller.ask(self.questions[which], which))
                advance(1)

        with ThreadPoolExecutor(self.clients) as pool:
            running = [pool.submit(serve) for _ in range(self.clients)]
            try:
                for each in as_completed(running):
                    each.result()
            except BaseException:
                caller.close()  # the others would be waited for
                raise
        return asked


def per_s(asked: Sequence[Asked]) -> float:
    """Answers over the time from the first request to the last answer."""
    return len(asked) / (max(each.end_s for each in asked) - min(each.start_s for each in asked))
