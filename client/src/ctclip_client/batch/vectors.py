"""Arrays of equal length in one file of float32, little endian, one after another."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from ctclip_client.system.files import destination

K = TypeVar("K", bound=Hashable)
_BYTES = 4


class Vectors:
    """numpy.fromfile(path, "<f4").reshape(-1, SIZE) is all of them: (N, SIZE)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._size = 0
        self._reserved = 0

    def open(self) -> None:
        """Make it where it is not there. Raises: OSError."""
        self._file = FileIO(destination(self.path), "a+")

    def close(self, *, keep: bool) -> None:
        """keep: false removes it."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if not keep:
                with suppress(OSError):
                    destination(self.path).unlink()

    def sync(self) -> None:
        """Onto the disk. Raises: OSError."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def append(self, vector: Any) -> int:
        """Add (SIZE,) float32; return its row. Raises: OSError."""
        import numpy as np

        assert self._file is not None  # noqa: S101 (a caller's mistake, not a user's)
        data = np.ascontiguousarray(vector, "<f4").tobytes()
        self._size = len(data)
        end = max(self._length() // self._size, self._reserved) * self._size
        self._file.truncate(end)  # what another run began; what is lost becomes zeros
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            raise
        return end // self._size

    def reserve(self, rows: int) -> None:
        """Append no array before row `rows`: somebody counts on the places of those before, even
        where what was there is lost."""
        self._reserved = rows

    def clear(self) -> None:
        """Keep nothing. Raises: OSError."""
        self._reserved = 0
        if self._file is not None and self._length():
            self._file.truncate(0)

    def read(self, rows: list[int], size: int) -> Any:
        """(len(rows), size) float32."""
        import numpy as np

        if not rows:
            return np.zeros((0, size), np.float32)
        shape = (max(rows) + 1, size)
        whole = np.memmap(destination(self.path), "<f4", "r", shape=shape)
        return np.asarray(whole[rows], np.float32)

    def missing(self, places: Mapping[K, tuple[int, int]]) -> Iterator[K]:
        """Which of the arrays, each at (row, size), are not there whole: beyond the end, or zeros,
        as a failure of power may leave them. An embedding has the length 1."""
        import numpy as np

        length = self._length()
        for key, (row, size) in places.items():
            end = (row + 1) * size * _BYTES
            if end > length or not np.any(
                np.fromfile(destination(self.path), "<f4", size, offset=end - size * _BYTES)
            ):
                yield key

    def _length(self) -> int:
        assert self._file is not None  # noqa: S101
        return os.fstat(self._file.fileno()).st_size
