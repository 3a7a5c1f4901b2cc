"""Who reads scans: this process, or others that hand volumes over as memory and not as messages."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import reduction, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, Protocol

from ctclip_client.errors import CTClipError, InvalidInput, Unreadable
from ctclip_client.readers.find import Scan
from ctclip_client.system.child import become_child

if TYPE_CHECKING:
    from ctclip_client.volume import Source, Volume

_MEMORY = "Read with fewer processes (--readers 1), or on a machine with more memory."
_STARTING = Lock()
_GRACE_S = 2.0
_DAMAGED = "Look at the file with ctclip doctor: what decodes it has crashed."


class Reader(Protocol):
    """Reads one scan at a time."""

    def read(self, scan: Scan, /) -> tuple[Volume, float]:
        """A volume, and the milliseconds that it took. Raises: CTClipError."""

    def close(self) -> None:
        """End what is under way: `read` raises then."""


@dataclass(frozen=True)
class LocalReader:
    """Reads in the thread that asks. options: of `read_volume`."""

    options: Mapping[str, Any]

    def read(self, scan: Scan, /) -> tuple[Volume, float]:
        """See `Reader`."""
        from ctclip_client import read_volume

        started = time.perf_counter()
        try:
            volume = read_volume(scan, **self.options)
        except CTClipError:
            raise
        except Exception as error:  # one scan of thousands, and never a traceback
            # Not the error's own words: they may be of the header.
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise Unreadable(
                f"{scan.path}: a fault of ctclip itself ({Path(last.filename).name}, line "
                f"{last.lineno}): {type(error).__name__}.",
                "Please report it, with the file if it holds no patient's data.",
            ) from error
        return volume, (time.perf_counter() - started) * 1000

    def close(self) -> None:
        """Nothing is kept."""


class ProcessReader:
    """Reads in a process of its own, which starts with the first scan and ends with this one."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._closed = False
        self._process: Any = None
        self._pipe: Any = None  # Windows has a class of its own

    def read(self, scan: Scan, /) -> tuple[Volume, float]:
        """See `Reader`. A process that dies over a scan is that scan's failure; the next one gets
        another."""
        if self._closed:
            raise InvalidInput("The reader is closed.")
        try:
            if self._pipe is None:
                self._start()
            self._pipe.send(scan)
            answer = self._pipe.recv()
            if isinstance(answer, CTClipError):
                raise answer
            return answer.taken(self._pipe), answer.read_ms
        except (EOFError, OSError, RuntimeError) as error:  # the last is of `recv_handle`
            how = self._ended()
            raise Unreadable(
                f"{scan.path}: the process that read it ended ({how}).",
                _MEMORY if how == "SIGKILL" else _DAMAGED,
            ) from error

    def close(self) -> None:
        """See `Reader`."""
        self._closed = True
        process = self._process
        if process is not None:
            process.terminate()  # it takes away what it has unpacked
            process.join(_GRACE_S)
            process.kill()
            process.join(5)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._pipe, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, os.getpid(), dict(self._options)), daemon=True
        )
        with theirs, _safe_path(), _deaf():
            process.start()
        self._process = process
        if self._closed:  # by another thread, meanwhile
            process.kill()

    def _ended(self) -> str:
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return "it did not start"
        process.join(5)
        process.kill()
        process.join()
        code = process.exitcode
        return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"


@contextmanager
def _safe_path() -> Iterator[None]:
    """Processes that are started here import nothing of the working directory, which may be a disc
    with anything on it. multiprocessing passes on no such option, but their interpreter reads a
    variable."""
    name = "PYTHONSAFEPATH"
    with _STARTING:
        before = os.environ.get(name, "")
        os.environ[name] = "1"
        try:
            yield
        finally:
            # Empty is as absent; to delete it would trouble threads that copy the environment.
            os.environ[name] = before


@dataclass(frozen=True)
class _Described:
    """A volume but for its voxels, which follow: int16, (z, x, y), y fastest."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    rescale: tuple[float, float]
    source: Source
    read_ms: float

    def taken(self, pipe: Connection) -> Volume:
        """The volume. Raises: OSError, EOFError where the other process died."""
        import numpy as np

        from ctclip_client.volume import Volume

        if sys.platform == "win32":
            voxels = np.empty(self.shape, "<i2")
            for plane in voxels:
                pipe.recv_bytes_into(plane.reshape(-1).view(np.uint8).data)
        else:
            descriptor = reduction.recv_handle(pipe)
            try:
                memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(descriptor)
            voxels = np.frombuffer(memory, "<i2").reshape(self.shape)
        return Volume(voxels, self.spacing_mm, self.rescale, self.source)


def _serve(pipe: Connection, parent: int, options: Mapping[str, Any]) -> None:
    """What the other process does: read what it is asked for, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, _leave)
    become_child(parent)
    reader = LocalReader(options)
    with suppress(EOFError, OSError):
        while True:
            _answer(pipe, reader, pipe.recv())


def _leave(*_: object) -> None:
    """Put away what is unpacked, and end. Once: the parent may ask, and its thread's end, too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


@contextmanager
def _deaf() -> Iterator[None]:
    """A process that is started inside hears no Ctrl-C, not even while it imports what it needs."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # whose start would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(pipe: Connection, reader: LocalReader, scan: Scan) -> None:
    import numpy as np

    try:
        volume, read_ms = reader.read(scan)
    except CTClipError as error:
        error.__cause__ = error.__context__ = None
        pipe.send(error)
        return
    shape: Any = volume.voxels.shape
    described = _Described(shape, volume.spacing_mm, volume.rescale, volume.source, read_ms)
    planes = (np.ascontiguousarray(plane, "<i2") for plane in volume.voxels)
    if sys.platform == "win32":
        pipe.send(described)
        for plane in planes:
            pipe.send_bytes(plane.reshape(-1).view(np.uint8).data)
        return
    try:
        file = _memory()
        for plane in planes:
            file.write(plane.data)
        file.flush()
    except OSError as error:
        pipe.send(Unreadable(f"{scan.path}: no room for its voxels: {error.strerror}.", _MEMORY))
        return
    with file:
        pipe.send(described)
        reduction.send_handle(pipe, file.fileno(), None)


def _memory() -> IO[bytes]:
    """Memory without a name: it goes with the last process that holds it, however that ends."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("ctclip-volume"), "w+b")
    return tempfile.TemporaryFile()
