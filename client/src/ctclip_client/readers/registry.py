"""Which formats are read, and what a file is: its first bytes decide, then its name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctclip_client.errors import Unreadable
from ctclip_client.readers.archive import ZIP_MAGICS, Archive
from ctclip_client.readers.dicom import Dicom
from ctclip_client.readers.format import Format
from ctclip_client.readers.gzip_stream import GZIP_MAGIC, opened
from ctclip_client.readers.nifti import Nifti
from ctclip_client.readers.nrrd import MetaImage, Nrrd
from ctclip_client.readers.rad_chestct import RadChestCT
from ctclip_client.readers.remedies import COPY_AGAIN, by_gunzip, without_orientation
from ctclip_client.system.files import special

FORMATS: tuple[Format, ...] = (
    Nifti(), Nrrd(), MetaImage(), RadChestCT(), Dicom(), Archive()
)  # fmt: skip
"""One line a format; the first one that recognises a file reads it."""

HEAD_BYTES = 1024
_ANALYZE_HEADER_SIZES = (struct.pack("<i", 348), struct.pack(">i", 348))


@dataclass(frozen=True)
class Unread:
    """A format that is recognised and has no reader."""

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes], bool]
    cause: str
    remedy: Callable[[Path], str]


def _without_orientation(path: Path) -> str:
    return (
        f"If it is Analyze, write it as NIfTI: {without_orientation(path)} If the array in it runs "
        "[x, y, z] towards Left, Posterior, Superior, that file can be read with its spacing: "
        "--as-stored --spacing z,x,y"
    )


UNREAD = (
    Unread("Analyze or NIfTI", (), lambda head: head[:4] in _ANALYZE_HEADER_SIZES,
           "Analyze 7.5 (or a damaged NIfTI), which records no orientation", _without_orientation),
)  # fmt: skip

SUFFIXES = tuple(
    sorted((suffix for form in FORMATS for suffix in form.suffixes), key=len, reverse=True)
)
"""Of the formats that are read, the longest first."""


def format_of(path: Path) -> Format:
    """Find the reader of a path.

    Raises:
        Unreadable: there is none; formats that are recognised without one are called by name.
        OSError: the file cannot be opened.
    """
    try:
        kind = special(path)
    except ValueError as error:  # a NUL byte
        raise Unreadable(
            f"{str(path)!r}: no name of a file ({error}).", "Check the path."
        ) from error
    if kind:
        raise Unreadable(
            f"{path}: {kind}, expected a file.",
            "Write what comes out of it into a file first; .nii.gz is read as it is.",
        )
    packed = head = b""
    if not path.is_dir():
        packed = head_of(path)
        with opened(path) as stream:
            head = stream.read(HEAD_BYTES)
    if packed.startswith(GZIP_MAGIC) and head.startswith(ZIP_MAGICS):
        raise Unreadable(
            f"{path}: a zip archive, packed by gzip as a whole.", f"Unpack it: {by_gunzip(path)}"
        )
    for form in FORMATS:
        if form.sniff(head, path):
            return form
    if not packed:
        raise Unreadable(f"{path}: the file is empty.", COPY_AGAIN)
    if head.startswith(GZIP_MAGIC):
        raise Unreadable(f"{path}: packed by gzip twice.", f"Unpack it once: {by_gunzip(path)}")
    by_content = [known for known in UNREAD if known.sniff(head)]
    by_name = [known for known in UNREAD if path.name.lower().endswith(known.suffixes)]
    for known in (*by_content, *by_name):
        raise Unreadable(f"{path}: {known.cause}.", known.remedy(path))
    if path.suffix == ".gz" and not packed.startswith(GZIP_MAGIC):
        raise Unreadable(f"{path}: named .gz but not gzip data.", COPY_AGAIN)
    raise Unreadable(
        f"{path}: not a CT file that this version can read.",
        f"Expected {' or '.join(form.name for form in FORMATS)} ({', '.join(SUFFIXES)}).",
    )


def ct_by_content(head: bytes, path: Path) -> str:
    """Name of the CT format whose first bytes these are, read or not; "" for none."""
    if head.startswith(GZIP_MAGIC):
        return "gzip, expected to hold NIfTI"
    names = [form.name for form in FORMATS if form.sniff(head, path)]
    names += [known.name for known in UNREAD if known.sniff(head)]
    return names[0] if names else ""


def is_ct_by_name(path: Path) -> bool:
    """Say whether a file is named like a CT of any format, read or not."""
    suffixes = (*SUFFIXES, ".dcm", *(suffix for known in UNREAD for suffix in known.suffixes))
    return path.name.lower().endswith(suffixes)


def head_of(path: Path) -> bytes:
    """The first bytes of a file, as they are. Raises: OSError."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
