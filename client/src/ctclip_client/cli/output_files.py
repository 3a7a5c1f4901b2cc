"""Files that a command is to write, looked at before its work begins."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ctclip_client.batch.journal import journal_of, vectors_of
from ctclip_client.errors import InvalidInput
from ctclip_client.system.files import NoRegularFile, destination


def check_output_files(
    outputs: Mapping[str, Path | None], inputs: Iterable[tuple[str, Path | None]]
) -> None:
    """Refuse what could not be written in the end, or would be lost by writing.

    Args:
        outputs: option -> the file that it names.
        inputs: what each file that will be read is, in words, and the file.

    Raises:
        InvalidInput: two outputs are one file (by whatever name), an output or what a run keeps
            beside it is an input, or nothing can be written there.
    """
    taken = {_identity(path): what for what, path in inputs if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        place = _checked(option, path)
        files = (place, journal_of(place), vectors_of(place), vectors_of(journal_of(place)))
        for each in files:
            if (what := taken.get(_identity(each))) is not None:
                raise InvalidInput(
                    f"{option}: {path}: is {what}, which would be lost.", "Name another file."
                )
        taken |= dict.fromkeys(map(_identity, files), f"the file of {option}")


def _identity(path: Path) -> object:
    """Equal for all names of one file: links of both kinds, and ways through other folders."""
    with suppress(OSError):
        state = path.stat()
        return state.st_dev, state.st_ino
    return path.absolute().parent.resolve() / path.name


def _checked(option: str, path: Path) -> Path:
    """Where the file will be placed."""
    if path.is_dir():
        raise InvalidInput(
            f"{option}: {path}: a folder, expected the name of a file to write.",
            "Name a file in it.",
        )
    try:
        place = destination(path)  # a link may lead to another disk
        with tempfile.TemporaryFile(dir=place.absolute().parent):
            return place
    except NoRegularFile as error:
        raise InvalidInput(
            f"{option}: {error.filename}: {error.strerror}.",
            "Name a file; what --json writes to standard output can be sent anywhere.",
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"{option}: {path}: cannot be written: {error.strerror or error}.",
            "Name a file in an existing folder that you may write to, on a disk with room.",
        ) from error
