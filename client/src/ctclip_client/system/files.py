"""Files that take their place whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ctclip_client.errors import InvalidInput

_ROOM = "Name a folder that you may write to, on a disk with room."
_KEPT = 50
_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NoRegularFile(OSError):
    """Under a name where a file is to be placed is something that a file must not replace."""


@contextmanager
def placed(path: Path) -> Iterator[BinaryIO]:
    """Write to a file beside `path` that takes its name at the end, on the disk by then.

    A link stays, and what it points to is replaced. After an error, or where nothing was written,
    there is what was there before, and nothing else.

    Raises: OSError.
    """
    path = destination(path)
    # Of a long name only the beginning: with more it would be longer than a disk allows.
    part = path.with_name(f".{path.name[:_KEPT]}.{secrets.token_hex(6)}.part")
    try:
        file = part.open("xb")
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        finally:
            with suppress(OSError):  # of a full disk, which the error on its way has said
                file.close()
        if part.stat().st_size:
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def whole_file(path: Path, remedy: str = _ROOM) -> Iterator[BinaryIO]:
    """As `placed`, for an output that somebody asked for. Raises: InvalidInput."""
    try:
        with placed(path) as file:
            yield file
    except OSError as error:
        raise InvalidInput(
            f"{path}: cannot be written: {error.strerror or error}.", remedy
        ) from error


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold a folder's lock, which goes with the process. Raises: OSError where somebody else holds
    it and `wait` is false, and where there are no such locks: on Windows, on some NFS."""
    # Windows opens no folder, which is an OSError, too.
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        lock(descriptor, wait=wait)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int, *, wait: bool) -> None:
    """Lock an open file until it is closed. Raises: OSError, as `locked` does."""
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "Windows has no locks of this kind")
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def special(path: Path) -> str:
    """What is there instead of a file or a folder ("a pipe (FIFO)"); "" for these two.

    Raises: OSError where nothing is there, or nobody can tell.
    """
    return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "")


def destination(path: Path) -> Path:
    """Return where a file of that name has to be placed: `path`, or what it points to as a link.

    Raises:
        NoRegularFile: a pipe, a socket or a device is there.
        OSError: nobody can tell, for instance because links go in a circle.
    """
    try:
        kind = special(path)
    except FileNotFoundError:
        kind = ""
    if kind:
        raise NoRegularFile(errno.EEXIST, f"{kind} is there, expected a file or nothing", str(path))
    return path.resolve() if path.is_symlink() else path
