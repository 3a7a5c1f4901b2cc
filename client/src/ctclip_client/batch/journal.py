"""The journal of a run: one JSON object a line, appended as results come, and never a torn one.

Whatever ends a run, what is in its journal is whole, and the next run goes on from there. Arrays of
a run (embeddings) lie beside it, in one file of float32.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Self

from ctclip_client.batch.vectors import Vectors
from ctclip_client.errors import InvalidInput
from ctclip_client.system.files import destination

Row = dict[str, Any]
SYNC_INTERVAL_S = 3.0
"""What a failure of power may cost."""
_BEGINNING = b'{"path": '
"""Of every row: what begins otherwise is somebody else's, even where its line has no end."""
_ANEW = "Name another file, or score everything anew with --again."


def journal_of(path: Path) -> Path:
    """Where the journal of an output lies that is not the journal itself."""
    return path.with_name(f"{path.name}.journal.jsonl")


def vectors_of(journal: Path) -> Path:
    """Where the arrays of a journal lie."""
    return journal.with_name(f"{journal.name}.f32")


@dataclass(frozen=True)
class Entry:
    """What is known of the last row of a scan. state: what tells whether the scan has changed.

    kind: of the row's error, "" where it has a result.
    """

    state: tuple[Any, ...]
    kind: str
    start: int
    length: int


class Journal:
    """Open for this process alone, from `with` on.

    key: names of the fields that say which scan a row is about; state: those that say which state
    of it. asked: a short word for the options of the run; rows of other options are refused.
    anew: what is there goes with the first new row, and not before. entries: the last row of every
    scan. release: of the rows' answers, "" before the first.
    """

    def __init__(
        self, path: Path, asked: str, *, key: tuple[str, ...], state: tuple[str, ...],
        vectors: bool = False, anew: bool = False,
    ) -> None:  # fmt: skip
        self.path = path
        self.asked = asked
        self.entries: dict[tuple[Any, ...], Entry] = {}
        self.release = ""
        self.resumed = False
        self._key, self._state = key, state
        self._vectors = Vectors(vectors_of(path)) if vectors else None
        self._file: FileIO | None = None
        self._end = 0
        self._anew = anew
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        """Read what is there.

        Raises: InvalidInput where that is no journal, one of other options, in use, or cannot be
        written.
        """
        with self._writing("opening"):
            self._file = FileIO(destination(self.path), "a+")
        try:
            self._lock(self._file)
            self._read(self._file)
            if self._vectors is not None:
                with self._writing("opening"):
                    self._vectors.open()
                self._forget_without_vector(self._vectors)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises: InvalidInput where what was written cannot be brought onto the disk."""
        try:
            if kind is None and self._file is not None:
                with self._writing():
                    self._sync(self._file)
        finally:
            self.close()

    def close(self) -> None:
        """Bring everything onto the disk. A journal without a row is removed."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            with suppress(OSError):  # of a full disk, which the error on its way has said
                self._sync(file)
            if not self._end and not os.fstat(file.fileno()).st_size:
                with suppress(OSError):
                    destination(self.path).unlink()
        finally:
            file.close()
            if self._vectors is not None:
                self._vectors.close(keep=bool(self._end))

    def append(self, row: Row, vector: Any = None) -> None:
        """Add a row; its array goes into the file beside, and its place there into the row.

        Raises: InvalidInput where it cannot be written; what was there stays whole.
        """
        if self._file is None:
            raise ValueError("the journal is closed")
        with self._writing():
            if self._anew or not self._end:
                self._forget(self._file)
            if vector is not None and self._vectors is not None:
                row = {**row, "embedding_row": self._vectors.append(vector),
                       "embedding_size": len(vector)}  # fmt: skip
            # ASCII, because names of files need not be text.
            line = json.dumps({**row, "asked": self.asked}, allow_nan=False).encode() + b"\n"
            try:
                left = memoryview(line)
                while left:
                    left = left[self._file.write(left) or 0 :]
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self._end)
                raise
            self._note(row, self._end, len(line))
            self._end += len(line)
            if time.monotonic() - self._synced > SYNC_INTERVAL_S:
                self._sync(self._file)

    def rows(self, *, failed: bool = False) -> Iterator[Row]:
        """The last row of every scan, those with a result, in the order of `entries`. failed: those
        with an error, too."""
        with destination(self.path).open("rb") as file:
            for entry in self.entries.values():
                if failed or not entry.kind:
                    file.seek(entry.start)
                    row: Row = json.loads(file.read(entry.length))
                    yield row

    def select(self, keys: Iterable[tuple[Any, ...]]) -> None:
        """Let `entries` be these only, in this order. The file keeps all."""
        self.entries = {key: self.entries[key] for key in keys if key in self.entries}

    @property
    def vectors(self) -> Vectors:
        """The arrays of the rows. Raises: ValueError where it has none."""
        if self._vectors is None:
            raise ValueError("a journal without arrays")
        return self._vectors

    def key_of(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Which scan a row is about."""
        return tuple(row[name] for name in self._key)

    def _note(self, row: Mapping[str, Any], start: int, length: int) -> None:
        error = row.get("error")
        kind = "" if error is None else str(error["kind"])
        state = tuple(row[name] for name in self._state)
        self.entries[self.key_of(row)] = Entry(state, kind, start, length)
        if not kind:
            self.release = self.release or row["release"]

    def _read(self, file: FileIO) -> None:
        """Take in the rows, and cut off what was not written to its end."""
        with self._writing("reading"), open(file.fileno(), "rb", closefd=False) as lines:
            lines.seek(0)
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    if not self._end and not _BEGINNING.startswith(line[: len(_BEGINNING)]):
                        raise self._no_journal(number)
                    break
                try:
                    row = json.loads(line)
                    _, asked = row["path"], row["asked"]  # as every row of every command has
                    other = asked != self.asked
                    if other and not self._anew:
                        raise self._of_another_run(row)
                    if not other:  # rows of another command have other fields
                        self._note(row, self._end, len(line))
                except (ValueError, TypeError, KeyError):
                    raise self._no_journal(number) from None
                self._end += len(line)
        if self._anew:
            self.entries, self.release = {}, ""
        self.resumed = bool(self.entries)
        with self._writing("cutting"):
            if os.fstat(file.fileno()).st_size > self._end:
                file.truncate(self._end)

    def _forget(self, file: FileIO) -> None:
        self._anew = False
        file.truncate(0)
        self._end = 0
        if self._vectors is not None:
            self._vectors.clear()

    def _forget_without_vector(self, vectors: Vectors) -> None:
        """Rows whose array did not reach the disk count as not done. No other array takes its
        place, or the row would count again in the next run."""
        places: dict[tuple[Any, ...], tuple[int, int]] = {}
        for row in list(self.rows()):
            places[self.key_of(row)] = (row["embedding_row"], row["embedding_size"])
        vectors.reserve(max((row + 1 for row, _ in places.values()), default=0))
        for key in vectors.missing(places):
            del self.entries[key]

    def _no_journal(self, line: int) -> InvalidInput:
        return InvalidInput(
            f"{self.path}: line {line} is no row of a run of ctclip, so it would be lost.",
            "Name another file, or move this one away.",
        )

    def _of_another_run(self, row: Row) -> InvalidInput:
        what = (
            "other options (prompts, what is computed, how scans are read, --report, --thresholds, "
            "--hash-names)"
        )
        if not {*self._key, *self._state} <= row.keys():
            what = "another command of ctclip"
        return InvalidInput(
            f"{self.path}: holds results of {what}.",
            f"Give the options of the run that is to go on. {_ANEW}",
        )

    def _lock(self, file: FileIO) -> None:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidInput(
                    f"{self.path}: another ctclip is writing to it.",
                    "Wait for its end, or name another file.",
                ) from error
            except OSError:  # a disk without locks
                pass

    def _sync(self, file: FileIO) -> None:
        if self._vectors is not None:
            self._vectors.sync()  # first: a row says that its array is there
        os.fsync(file.fileno())
        self._synced = time.monotonic()

    def _writing(self, what: str = "writing") -> AbstractContextManager[None]:
        return _writing(self.path, what)


@contextmanager
def _writing(path: Path, what: str) -> Iterator[None]:
    """Around what may fail on a journal and its arrays."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{path}: {what} failed: {error.strerror or error}.",
            "Name a file in an existing folder that you may write to, on a disk with room. What "
            "was done so far is kept: the same command goes on.",
        ) from error
