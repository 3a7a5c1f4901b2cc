"""Read → score, many scans at once: readers ahead of the server, and no more volumes than lanes.

A lane takes a scan, reads it, has it scored, and takes the next. There is one lane more than there
are readers, so that all of them read while the server works; a volume is a lane's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Event, Lock, Thread
from typing import TYPE_CHECKING, Generic, TypeVar

from ctclip_client.batch.reading import Reader
from ctclip_client.batch.service import StopError, patiently
from ctclip_client.errors import CTClipError, ServiceError

if TYPE_CHECKING:
    from ctclip_client.readers.find import Scan
    from ctclip_client.volume import Volume

R = TypeVar("R")
_SHARE = 4
"""A second scan is sent ahead of an answer where answers take less than this part of the time that
is given them: it waits for the first one in the server, and its time runs."""
_HEARS_S = 1.0
_IN_A_ROW = 10
"""So many scans that fail at a server which is there are no fault of the scans."""


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """Of one scan: what `score` returned, or why there is nothing. index: among those of the run.

    stop: the run is to end with this error, which is not the scan's.
    """

    index: int
    scan: Scan
    result: R | None = None
    error: CTClipError | None = None
    stop: CTClipError | None = None


@dataclass(frozen=True)
class Service(Generic[R]):
    """The server, as the lanes see it.

    score: asks it about one scan, given the scan, its volume and the milliseconds of reading;
        raises CTClipError, or StopError for what ends the run. check: whether it would answer;
        raises as `Client.check_ready` does.
    timeout_s: what one answer may take. wait_s: for how long a server that went away is waited for.
    say: tells a person that it is waited for.
    """

    score: Callable[[Scan, Volume, float], R]
    check: Callable[[], None]
    timeout_s: float
    wait_s: float
    say: Callable[[str], None]


class Pipeline(Generic[R]):
    """One run. Iterate over it once; `close` it whatever happens."""

    def __init__(
        self, scans: Sequence[Scan], readers: Sequence[Reader], service: Service[R]
    ) -> None:
        self._scans = enumerate(scans)
        self._count = len(scans)
        self._service = service
        self._all_readers = readers
        self._readers: SimpleQueue[Reader] = SimpleQueue()
        for reader in readers:
            self._readers.put(reader)
        self._outcomes: SimpleQueue[Outcome[R]] = SimpleQueue()
        self._lock = Lock()
        self._stopped = Event()
        self._waiting = False
        self._failures = 0
        self._at_server = BoundedSemaphore(2)
        self._at_server.acquire()  # one at a time, until an answer has shown that two have time
        self._one_at_a_time = True
        count = min(len(readers) + 1, len(scans)) if len(scans) > 1 else 1
        self._lanes = [Thread(target=self._lane, daemon=True) for _ in range(count)]

    def __iter__(self) -> Iterator[Outcome[R]]:
        """Outcomes as they come, one for every scan, unless one says that the run is to stop."""
        for lane in self._lanes:
            lane.start()
        for _ in range(self._count):
            outcome = self._next()
            yield outcome
            del outcome  # it may hold large maps

    def _next(self) -> Outcome[R]:
        while True:
            with suppress(Empty):  # Windows hears no Ctrl-C while it waits
                return self._outcomes.get(timeout=_HEARS_S)

    def close(self) -> None:
        """Take no more scans and end the readers. What is asked at the server goes on until the
        client is closed."""
        self._stopped.set()
        for reader in self._all_readers:
            reader.close()

    def join(self, timeout_s: float = 5.0) -> None:
        """Wait for the lanes, once the client is closed."""
        end = time.monotonic() + timeout_s
        for lane in self._lanes:
            if lane.ident is not None:
                lane.join(max(end - time.monotonic(), 0))

    def _lane(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                index, scan = next(self._scans, (None, None))
            if index is None or scan is None:
                # A process that reads ends with the thread that started it, and others may use it.
                self._stopped.wait()
                return
            self._outcomes.put(self._outcome(index, scan))

    def _outcome(self, index: int, scan: Scan) -> Outcome[R]:
        if scan.refused is not None:
            return Outcome(index, scan, error=scan.refused)
        try:
            reader = self._readers.get()
            try:
                volume, read_ms = reader.read(scan)
            finally:
                self._readers.put(reader)
            result = self._answer(scan, volume, read_ms)
            self._failures = 0
            return Outcome(index, scan, result)
        except StopError as stop:
            return Outcome(index, scan, stop=_light(stop.error))
        except CTClipError as error:
            if isinstance(error, ServiceError):
                self._failures += 1
                if self._failures >= _IN_A_ROW:
                    return Outcome(index, scan, stop=_in_a_row(error))
            return Outcome(index, scan, error=_light(error))
        except BaseException as error:  # noqa: BLE001 (raised in the thread that iterates)
            return Outcome(index, scan, stop=_Fault(error))

    def _answer(self, scan: Scan, volume: Volume, read_ms: float) -> R:
        """Raises: CTClipError of the scan; StopError, also where the server does not come back."""
        service = self._service

        def ask() -> R:
            with self._at_server:
                started = time.monotonic()
                result = service.score(scan, volume, read_ms)
                self._open_second(time.monotonic() - started)
                return result

        result = patiently(ask, service.check, service.wait_s, self._tell, self._stopped)
        self._waiting = False
        return result

    def _open_second(self, answered_s: float) -> None:
        with self._lock:
            if self._one_at_a_time and answered_s * _SHARE < self._service.timeout_s:
                self._one_at_a_time = False
                self._at_server.release()

    def _tell(self, problem: str) -> None:
        with self._lock:
            told, self._waiting = self._waiting, True
        if not told:
            self._service.say(f"{problem} Waiting up to {self._service.wait_s:g} s for it.")


class _Fault(CTClipError):
    """Carries what nobody foresaw out of a lane."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def raise_stop(stop: CTClipError) -> None:
    """Raise why a run is to end."""
    raise stop.error if isinstance(stop, _Fault) else stop


def _in_a_row(error: ServiceError) -> ServiceError:
    cause = f"{error.cause} So it was for {_IN_A_ROW} scans in a row: the run ends here."
    return type(error)(cause, error.remedy)


def _light(error: CTClipError) -> CTClipError:
    """The error without its frames, which hold the scan."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
