"""One region of system shared memory that carries one volume to a server on the same machine."""

from __future__ import annotations

import mmap
import os
import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_FOLDER = Path("/dev/shm")  # noqa: S108 (where POSIX shared memory lives on Linux)


class Region:
    """Memory shared by name until `unlink`, and without a name, by those who mapped it, until then.

    The name is random and the region is readable by this user only. Pages are reserved when it is
    made: writing to a sparse region on a full /dev/shm would kill the process instead.

    Raises:
        OSError: this system has no such memory, or not enough.
    """

    def __init__(self, nbytes: int) -> None:
        self.name = f"ctclip-client-{os.getpid()}-{secrets.token_hex(16)}"
        self.nbytes = nbytes
        self._path = _FOLDER / self.name
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
            self._memory = mmap.mmap(descriptor, nbytes)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(descriptor)

    @property
    def key(self) -> str:
        """What `shm_open` calls the region."""
        return f"/{self.name}"

    def write(self, array: NDArray[np.int16]) -> None:
        """Copy an array of any strides into the region, little endian, last axis fastest."""
        target: NDArray[np.int16] = np.frombuffer(self._memory, "<i2").reshape(array.shape)
        np.copyto(target, array)

    def unlink(self) -> None:
        """Remove the name; who has mapped the region keeps it. Safe to call twice."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the name and this side's mapping."""
        self.unlink()
        self._memory.close()
