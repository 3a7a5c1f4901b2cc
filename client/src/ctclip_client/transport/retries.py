"""Trying again what is safe to try again.

An inference changes nothing on a server, so it may be sent twice. It is sent again only where the
error is `Unavailable`: nobody answers, the connection broke, the queue is full, a release is being
changed. Bad input, a deadline, a missing model and a failure of the server would be the same again.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ctclip_client.errors import Unavailable
from ctclip_client.transport.steps import Deadline, Flow, Pause, Session, T

RETRIES = 3
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_TO_A_STRANGER = 0.2
"""Pauses are so much shorter where no server has ever answered: the address may be wrong."""


def retried(
    session: Session, deadline: Deadline, attempt: Callable[[], Flow[T | Unavailable]]
) -> Flow[T]:
    """Attempt until there is a result, `session.retries` more times at most, and in the time left.

    attempt: returns the error that is worth another attempt, and raises every other one.

    Raises:
        Unavailable: that of the last attempt.
    """
    count = 0
    while True:
        outcome = yield from attempt()
        if not isinstance(outcome, Unavailable):
            return outcome
        pause_s = pause_before(count, known=session.answered)
        if count == session.retries or pause_s >= deadline.left_s():
            try:
                raise outcome
            finally:
                del outcome
        del outcome  # by its traceback it holds the request, which is as large as the scan
        yield Pause(pause_s)
        count += 1


def pause_before(count: int, *, known: bool) -> float:
    """Seconds before another attempt, after `count` repeated ones.

    0.5 s, doubled each time, at most 10 s, of which a random part of up to a half is left out: many
    clients that lost one server must not come back at once. known: whether it has answered before.
    """
    longest_s = min(_FIRST_PAUSE_S * 2.0 ** min(count, 10), _LONGEST_PAUSE_S)
    share = random.uniform(0.5, 1)  # noqa: S311 (no secret)
    return longest_s * share * (1 if known else _TO_A_STRANGER)
