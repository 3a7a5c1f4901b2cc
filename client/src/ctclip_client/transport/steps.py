"""What the client's procedures ask for, so that they never touch the network themselves.

A procedure is a generator: it yields an `Rpc` or a `Work`, and is sent what came of it or thrown
the error. `Client` and `AsyncClient` differ only in how they do these two things.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ctclip_client.transport.endpoint import Endpoint
from ctclip_client.transport.shared_memory import SUPPORTED, Region

T = TypeVar("T")

SharedMemory = Literal["auto"] | bool


@dataclass(frozen=True)
class Rpc:
    """One unary call: the method, the serialised request, seconds it may take. Gives bytes."""

    method: str
    payload: bytes = field(repr=False)
    timeout_s: float


@dataclass(frozen=True)
class Work:
    """A function that takes long enough to be kept off an event loop. Gives what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Pause:
    """Nothing for so many seconds. Gives None."""

    seconds: float


Step = Rpc | Work | Pause
Flow = Generator[Step, Any, T]


@dataclass
class Session:
    """What the calls of one client share.

    retries: how often a call is repeated at most, see `retries`.
    answered: whether a server has ever answered.
    refused: the server has shown that it does not map this client's memory; asking again for
    every scan would only cost time.
    swept: whether regions that others have left behind were looked for.
    in_use: regions of calls that are under way.
    unreleased: names of regions that the server may still hold: it was reading them when this side
    gave up waiting, and refuses to unregister those, or the asking was interrupted. It is asked
    again by the next call, and by `close`.
    """

    endpoint: Endpoint
    timeout_s: float
    shared_memory: SharedMemory
    retries: int = 0
    answered: bool = False
    refused: bool = False
    swept: bool = False
    in_use: set[Region] = field(default_factory=set)
    unreleased: set[str] = field(default_factory=set)

    def give_up(self, region: Region) -> None:
        """Remove a region's name, and note what the server is to be asked for.

        In this order, whatever interrupts it loses nothing; and a server that has yet to map the
        region cannot any more. Once: `close` may have done it, and asked the server, meanwhile.
        """
        if region.offered and region in self.in_use:
            self.unreleased.add(region.name)
        region.unlink()
        self.in_use.discard(region)

    @property
    def tries_shared_memory(self) -> bool:
        """Whether the next volume is offered through shared memory."""
        if self.shared_memory == "auto":
            return SUPPORTED and self.endpoint.loopback and not self.refused
        return self.shared_memory


class Deadline:
    """The time that all the calls of one procedure have together."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds left; never quite 0, so that it is the call that runs out of time."""
        return max(self._end - time.monotonic(), 1e-3)
