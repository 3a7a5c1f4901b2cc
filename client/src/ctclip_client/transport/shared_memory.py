"""Regions of system shared memory, each of which carries one volume to a server on this machine.

On Linux only: it is there that Triton runs.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.system.files import lock

_FOLDER = Path("/dev/shm")  # noqa: S108 (where POSIX shared memory lives on Linux)
_PREFIX = "ctclip-client-"
SUPPORTED = sys.platform == "linux"


class Region:
    """Memory shared by name, from `create` until `unlink`.

    The name is random and known before anything of that name exists, so that whoever is to give it
    back can note it first. The file is readable by this user only and locked while this process
    maps it, which tells `sweep` that it is in use.

    offered: whether a server was asked to map it; up to whoever asks.
    """

    def __init__(self, nbytes: int) -> None:
        self.name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(16)}"
        self.nbytes = nbytes
        self.offered = False
        self._path = _FOLDER / self.name
        self._owner = os.getpid()
        self._unlinked = False
        self._memory: mmap.mmap | None = None

    @property
    def key(self) -> str:
        """What `shm_open` calls the region."""
        return f"/{self.name}"

    def create(self) -> None:
        """Reserve the memory; once.

        All its pages, now: writing to a sparse region on a full /dev/shm would kill the process.

        Raises:
            OSError: this system has no such memory, or not enough.
        """
        try:
            descriptor = _locked_file(self._path, self.nbytes)
            try:
                self._memory = mmap.mmap(descriptor, self.nbytes)  # its own descriptor: the lock's
            finally:
                os.close(descriptor)
        except BaseException:
            self.unlink()
            raise
        if self._unlinked:  # by another thread, meanwhile
            self.unlink()

    def write(self, array: NDArray[Any]) -> None:
        """Copy an int16 array of any strides into the region, little endian, last axis fastest."""
        assert self._memory is not None  # noqa: S101 (a caller's mistake, not a user's)
        target: NDArray[np.int16] = np.frombuffer(self._memory, "<i2").reshape(array.shape)
        np.copyto(target, array)

    def unlink(self) -> None:
        """Remove the name; who has mapped the region keeps it. Safe to call at any time."""
        self._unlinked = True
        if os.getpid() == self._owner:  # a fork has the object, not the region
            with suppress(OSError):
                self._path.unlink()

    def close(self) -> None:
        """Remove the name and this side's mapping."""
        self.unlink()
        if self._memory is not None:
            with suppress(BufferError):  # an interrupted `write` holds it until it is forgotten
                self._memory.close()


def sweep(note: Callable[[str], object]) -> None:
    """Remove this user's regions that nobody uses; note their names.

    Only the lock tells: a process id means nothing between containers that share the memory.
    """
    if sys.platform != "linux":
        return
    for path in _FOLDER.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or in use, or gone meanwhile
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                lock(descriptor, wait=False)
                state = os.fstat(descriptor)
                # Without links another sweeper was faster, and the name may be in use again.
                if stat.S_ISREG(state.st_mode) and state.st_nlink and state.st_uid == os.geteuid():
                    note(path.name)
                    path.unlink()
            finally:
                os.close(descriptor)


def bequeath(names: Iterable[str]) -> None:
    """Leave empty files, by which the next `sweep` finds what a server has not let go of."""
    for name in names:
        with suppress(OSError):
            (_FOLDER / name).touch(0o600)


def _locked_file(path: Path, nbytes: int) -> int:
    """A new file of that size, open and locked."""
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, f"not on {sys.platform}")
    while True:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            lock(descriptor, wait=True)
            if os.fstat(descriptor).st_nlink:
                os.posix_fallocate(descriptor, 0, nbytes)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # swept before it was locked: once more
