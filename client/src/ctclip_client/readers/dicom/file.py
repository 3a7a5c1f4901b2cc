"""A DICOM file as bytes: what it is told by, and how it is given to pydicom.

pydicom's own words are not passed on, neither its errors nor its warnings and logs: they quote the
header, which names the patient.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from ctclip_client.errors import Unreadable
from ctclip_client.readers.remedies import COPY_AGAIN
from ctclip_client.system.distributions import how_to_install_extra
from ctclip_client.system.threads import Shared

DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT = "1.2.840.10008.1.2.1"
_HEAD_BYTES = 2048
_LARGEST_HEADER_BYTES = 64 << 20
LARGEST_INFLATED_BYTES = 1 << 30


def require_pydicom() -> None:
    """Raises: Unreadable where the extra is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise Unreadable(
            "DICOM is read by pydicom, which is not installed.", how_to_install_extra("dicom")
        ) from error


def is_dicom(head: bytes) -> bool:
    """Whether a file's first bytes are DICOM's: the magic, or a dataset that has none before it."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 132:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        explicit = head[4:6] in (b"UL", b"UI", b"CS", b"DA", b"TM", b"LO", b"SH", b"OB")
        implicit = order == "<" and length < 256 and length % 2 == 0
        if group in (2, 8) and element <= 0x70 and (explicit or implicit):
            return True
    return False


def plain(raw: BinaryIO, path: Path, *, whole: bool) -> BinaryIO:
    """The file itself; of a deflated one its dataset in memory, or as much as a header may be.

    Raises: Unreadable where the whole of it is more than `LARGEST_INFLATED_BYTES`, or damaged.
    """
    head = raw.read(_HEAD_BYTES)
    raw.seek(0)
    if DEFLATED.encode() not in head or head[128:136] != b"DICM\2\0\0\0":
        return raw
    (meta_bytes,) = struct.unpack("<I", head[140:144])
    raw.seek(144 + meta_bytes)
    limit_bytes = LARGEST_INFLATED_BYTES if whole else _LARGEST_HEADER_BYTES
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = stream.decompress(raw.read(), limit_bytes)
    except zlib.error as error:
        raise Unreadable(f"{path}: damaged deflated data ({error}).", COPY_AGAIN) from error
    if whole and len(content) == limit_bytes:
        raise Unreadable(
            f"{path}: unpacks to more than {limit_bytes >> 30} GiB.", "It is no CT of a person."
        )
    return BytesIO(content)


@contextmanager
def reading(path: Path, what: str = "damaged DICOM file") -> Iterator[None]:
    """Turn whatever pydicom and its decoders raise into `Unreadable`; only its kind is told."""
    try:
        with _QUIET.kept():
            yield
    except (Unreadable, OSError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 (Rust's panics are no Exception)
        raise Unreadable(f"{path}: {what} ({type(error).__name__}).", COPY_AGAIN) from None


@contextmanager
def _silent() -> Iterator[None]:
    """No warnings, and none of pydicom's log: they would show what a header holds."""
    logger = logging.getLogger("pydicom")
    before = logger.propagate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.propagate = False
        try:
            yield
        finally:
            logger.propagate = before


_QUIET = Shared(_silent)
