"""Which files lie below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file, folder by folder, in order of their names.

    Links to folders are followed. A folder that is reached a second time, by a link in a circle,
    say, is left out. So are files that begin with `._`: macOS puts one beside each file into zip
    archives and onto discs, with the same suffix.

    Raises: OSError.
    """
    seen: set[tuple[int, int]] = set()
    for name, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        state = Path(name).stat()
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders.sort()
        for file in sorted(files):
            path = Path(name, file)
            if not file.startswith("._") and path.is_file():  # no pipe, which would be waited for
                yield path


def _raise(error: OSError) -> None:
    raise error
