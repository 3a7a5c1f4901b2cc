"""Which files lie below a folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ctclip_client.errors import Unreadable

Closed = list[tuple[Path, Unreadable]]
"""Files and folders that cannot be looked into, and why. Whatever they are, a scan may be lost."""


def files_below(folder: Path, closed: Closed | None = None) -> Iterator[Path]:
    """Every regular file, folder by folder, in order of their names.

    Links to folders are followed. A folder that is reached a second time, by a link in a circle,
    say, is left out. So are files that begin with `._`: macOS puts one beside each file into zip
    archives and onto discs, with the same suffix.

    closed: gets what cannot be looked into, and the rest goes on.

    Raises: OSError, where `closed` is not given.
    """
    seen: set[tuple[int, int]] = set()

    def shut(error: OSError) -> None:
        if closed is None:
            raise error
        path = Path(error.filename)
        closed.append((path, cannot_be_read(path, error)))

    for name, folders, files in os.walk(folder, onerror=shut, followlinks=True):
        try:
            state = Path(name).stat()
        except OSError as error:
            shut(error)
            continue
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders.sort()
        for file in sorted(files):
            path = Path(name, file)
            if file.startswith("._"):
                continue
            try:
                regular = path.is_file()  # no pipe, which would be waited for
                if not regular and path.is_symlink():
                    path.stat()
            except OSError as error:
                shut(error)
                continue
            if regular:
                yield path


def cannot_be_read(path: Path, error: OSError) -> Unreadable:
    """What to tell of a file or folder below one that is searched."""
    # Not `Path.exists`, which passes on that a folder above is closed.
    if error.errno == errno.ENOENT and os.path.islink(path):  # noqa: PTH114
        return Unreadable(
            f"{path}: a link to a file that is not there.",
            "Fetch it (git annex get, dvc pull, or the disk that it lies on), or remove the link.",
        )
    return Unreadable(
        f"{path}: {error.strerror or error}.",
        "Check the permission to read it, or name the folders beside it one by one.",
    )
