"""What a run asks a server besides its scans, and how it waits for one that went away."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ctclip_client.contract import CHECK, RESCALE, SPACING
from ctclip_client.errors import CTClipError, NotReady, ServerError, ServiceError, Unavailable
from ctclip_client.results import Provenance
from ctclip_client.transport.blocking import run_procedure
from ctclip_client.transport.infer import Call, infer
from ctclip_client.transport.steps import Deadline, Flow, Session
from ctclip_client.transport.wire import Input

if TYPE_CHECKING:
    from ctclip_client.transport.blocking import Client

T = TypeVar("T")
PAUSE_S = 1.0
"""Between two questions whether the server is back."""


class StopError(Exception):
    """What is no fault of a scan, and ends the run."""

    def __init__(self, error: CTClipError) -> None:
        super().__init__()
        self.error = error


class GoneError(StopError):
    """A server that went away, and was not back in time."""


def patiently(
    ask: Callable[[], T], check: Callable[[], None], wait_s: float, say: Callable[[str], None],
    stopped: Event,
) -> T:  # fmt: skip
    """Ask; wait for a server that went away, and ask again.

    check: whether it would answer, as `Client.check_ready`. wait_s: for how long it is waited for.
    say: is told what is wrong before each wait. stopped: once set, nothing is asked again.

    Raises: CTClipError that a server gave which is there; GoneError.
    """
    since: float | None = None
    while True:
        started = time.monotonic()
        try:
            return ask()
        except ServiceError as error:
            since = since or started
            away = isinstance(error, Unavailable | NotReady) or _is_away(check)
            if stopped.is_set() or not away:
                raise
            if time.monotonic() - since >= wait_s:
                if _is_away(check):
                    raise GoneError(error) from None
                raise  # it is there for others
            say(error.cause)
        stopped.wait(PAUSE_S)


def _is_away(check: Callable[[], None]) -> bool:
    try:
        check()
    except ServiceError:
        return True
    return False


def provenance_of(client: Client) -> Provenance | None:
    """Which release the server has; None where it keeps that to itself until it answers about a
    scan.

    Raises: CTClipError.
    """
    try:
        return run_procedure(client, _provenance)
    except (NotReady, ServerError):
        return None


def _provenance(session: Session) -> Flow[Provenance]:
    inputs = (Input(SPACING, np.ones(3)), Input(RESCALE, np.array((1, 0), np.float32)))
    answer = yield from infer(session, Call(CHECK, inputs), Deadline(session.timeout_s))
    return Provenance.from_json(bytes(answer.arrays["PROVENANCE"][0]))
