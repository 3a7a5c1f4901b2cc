"""Which formats are read, and what a file is: its first bytes decide, then its name."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctclip_client.errors import Unreadable
from ctclip_client.readers.format import GZIP_MAGIC, Format
from ctclip_client.readers.nifti import Nifti

FORMATS: tuple[Format, ...] = (Nifti(),)
"""One line a format; the first one that recognises a file reads it."""

HEAD_BYTES = 1024
_ZIP_MAGIC = b"PK\3\4"
_ANALYZE_HEADER_SIZES = (struct.pack("<i", 348), struct.pack(">i", 348))
_TO_NIFTI = "This version reads NIfTI (.nii, .nii.gz). Convert it first, for instance with "
_BY_DCM2NIIX = _TO_NIFTI + "dcm2niix: dcm2niix -z y -o OUT FOLDER"
_BY_SIMPLEITK = _TO_NIFTI + "SimpleITK: WriteImage(ReadImage(IN), 'out.nii.gz')"
_AFTER_UNPACKING = _TO_NIFTI + "dcm2niix after unpacking: dcm2niix -z y -o OUT FOLDER"


@dataclass(frozen=True)
class Unread:
    """A format that is recognised and has no reader."""

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes], bool]
    cause: str
    remedy: str


DICOM = Unread(
    "DICOM", (".dcm",), lambda head: head[128:132] == b"DICM",
    "a DICOM file, which is not supported yet", _BY_DCM2NIIX,
)  # fmt: skip
UNREAD = (
    DICOM,
    Unread("NRRD", (".nrrd",), lambda head: head.startswith(b"NRRD"),
           "an NRRD file, which is not supported yet", _BY_SIMPLEITK),
    Unread("MetaImage", (".mha", ".mhd"), lambda head: head.startswith((b"ObjectType", b"NDims")),
           "a MetaImage file, which is not supported yet", _BY_SIMPLEITK),
    Unread("Analyze or NIfTI", (), lambda head: head[:4] in _ANALYZE_HEADER_SIZES,
           "Analyze 7.5 (or a damaged NIfTI), which records no orientation",
           "Convert the scan again from DICOM: dcm2niix -z y -o OUT FOLDER"),
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
    packed = b"" if path.is_dir() else head_of(path)
    head = _unpacked_head(path) if packed.startswith(GZIP_MAGIC) else packed
    for form in FORMATS:
        if form.sniff(head, path):
            return form
    if path.is_dir():
        raise Unreadable(f"{path}: a folder; DICOM series are not supported yet.", _BY_DCM2NIIX)
    if not packed:
        raise Unreadable(f"{path}: the file is empty.", "Copy or export it again.")
    if head.startswith(_ZIP_MAGIC) or head[257:262] == b"ustar":
        raise Unreadable(f"{path}: an archive, which is not supported yet.", _AFTER_UNPACKING)
    by_content = [known for known in UNREAD if known.sniff(head)]
    by_name = [known for known in UNREAD if path.name.lower().endswith(known.suffixes)]
    for known in (*by_content, *by_name):
        raise Unreadable(f"{path}: {known.cause}.", known.remedy)
    if path.suffix == ".gz" and not packed.startswith(GZIP_MAGIC):
        raise Unreadable(
            f"{path}: named .gz but not gzip data.", "Copy or download the file again."
        )
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
    suffixes = (*SUFFIXES, *(suffix for known in UNREAD for suffix in known.suffixes))
    return path.name.lower().endswith(suffixes)


def head_of(path: Path) -> bytes:
    """The first bytes of a file, as they are. Raises: OSError."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _unpacked_head(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(HEAD_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unreadable(
            f"{path}: damaged gzip data ({error}).", "Copy or download the file again."
        ) from error
