"""So many clients, each of which sends its next scan when its last one is answered."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from ctclip_bench.load.answers import Answer, Question, Repeat
from ctclip_bench.load.worker_process import Advance, Caller


@dataclass(frozen=True)
class Asked:
    """One answered request. question: its number. start_s, end_s: of `time.perf_counter`.

    sent_bytes: of the tensors, as they travelled by `transport`.
    """

    question: int
    start_s: float
    end_s: float
    complaint: str
    answer: bytes
    sent_bytes: int
    transport: str
    release: str

    @property
    def ms(self) -> float:
        """Milliseconds from the call to its answer."""
        return (self.end_s - self.start_s) * 1000


@dataclass(frozen=True)
class ClosedLoop:
    """A job for `worker`. Questions take turns; each client asks one at least.

    requests: in all, or fewer where limit_s seconds are over first. expected: the judged answer of
    each question, as `Answer.to_bytes` writes it; without it the first one of each is.
    """

    questions: tuple[Question, ...]
    clients: int
    requests: int
    limit_s: float
    repeat: Repeat
    expected: tuple[bytes, ...] = ()

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
                asked.append(self._ask(caller, number % len(self.questions)))
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

    def _ask(self, caller: Caller, number: int) -> Asked:
        question = self.questions[number]
        with caller.client() as client:
            start_s = time.perf_counter()
            scores = question.ask(client, caller.volume(question))
            end_s = time.perf_counter()
        answer, complaint = Answer.of(scores), ""
        if self.expected:
            known = Answer.from_bytes(self.expected[number], len(scores.findings))
            complaint = self.repeat.complaint(answer, known)
        sent, release = scores.transport, scores.provenance.release
        return Asked(
            number, start_s, end_s, complaint, answer.to_bytes(), sent.bytes, sent.kind, release
        )


def per_s(asked: Sequence[Asked]) -> float:
    """Answers over the time from the first request to the last answer."""
    return len(asked) / (max(each.end_s for each in asked) - min(each.start_s for each in asked))
