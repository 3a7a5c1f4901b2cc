"""What a file is, told by its first bytes."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from ctclip_client.errors import Unreadable

_TO_NIFTI = "This version reads NIfTI (.nii, .nii.gz). Convert it first, for instance with "
_DICOM = _TO_NIFTI + "dcm2niix: dcm2niix -z y -o OUT FOLDER"
_IMAGE = _TO_NIFTI + "SimpleITK: WriteImage(ReadImage(IN), 'out.nii.gz')"
_ARCHIVE = _TO_NIFTI + "dcm2niix after unpacking: dcm2niix -z y -o OUT FOLDER"

_HEAD_BYTES = 1024
_HEADER_BYTES = {1: 348, 2: 540}
_SINGLE_FILE = (b"n+1\0", b"n+2\0")
_PAIR = (b"ni1\0", b"ni2\0")


@dataclass(frozen=True)
class NiftiForm:
    """version: 1 or 2. header_bytes: its size. compressed: gzip around it."""

    version: int
    header_bytes: int
    compressed: bool


def identify(path: Path) -> NiftiForm:
    """Say which NIfTI a path holds.

    Raises:
        Unreadable: anything else; formats that are known but not read yet are called by name.
        OSError: the file cannot be opened.
    """
    if path.is_dir():
        raise Unreadable(f"{path}: a folder; DICOM series are not supported yet.", _DICOM)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise Unreadable(f"{path}: the file is empty.", "Copy or export it again.")
    compressed = head.startswith(b"\x1f\x8b")
    if compressed:
        head = _decompressed_head(path)
    form = _nifti_form(path, head, compressed)
    if form is not None:
        return form
    _refuse_known(path, head)
    if path.suffix == ".gz" and not compressed:
        raise Unreadable(
            f"{path}: named .gz but not gzip data.", "Copy or download the file again."
        )
    raise Unreadable(
        f"{path}: not a CT file that this version can read.",
        "Expected NIfTI (.nii or .nii.gz).",
    )


def _decompressed_head(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(_HEAD_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unreadable(
            f"{path}: damaged gzip data ({error}).", "Copy or download the file again."
        ) from error


def _nifti_form(path: Path, head: bytes, compressed: bool) -> NiftiForm | None:
    for version, offset in ((1, 344), (2, 4)):
        magic = head[offset : offset + 4]
        if magic in _PAIR:
            raise Unreadable(
                f"{path}: half of a NIfTI pair (.hdr and .img).",
                "Convert the pair into one file: nibabel.save(nibabel.load(IN), 'out.nii.gz')",
            )
        if magic in _SINGLE_FILE:
            size = _HEADER_BYTES[version]
            if len(head) < size:
                raise Unreadable(
                    f"{path}: ends inside the header.", "Copy or download the file again."
                )
            return NiftiForm(version, size, compressed)
    return None


def _refuse_known(path: Path, head: bytes) -> None:
    """Raise for a format that is known by name; return for anything else."""
    if head[128:132] == b"DICM":
        raise Unreadable(f"{path}: a DICOM file, which is not supported yet.", _DICOM)
    if head.startswith(b"NRRD"):
        raise Unreadable(f"{path}: an NRRD file, which is not supported yet.", _IMAGE)
    if head.startswith((b"ObjectType", b"NDims")) or path.suffix in (".mha", ".mhd"):
        raise Unreadable(f"{path}: a MetaImage file, which is not supported yet.", _IMAGE)
    if head.startswith(b"PK\3\4") or head[257:262] == b"ustar":
        raise Unreadable(f"{path}: an archive, which is not supported yet.", _ARCHIVE)
    if head[:4] in (struct.pack("<i", 348), struct.pack(">i", 348)):
        raise Unreadable(
            f"{path}: Analyze 7.5 (or a damaged NIfTI), which records no orientation.",
            "Convert the scan again from DICOM: dcm2niix -z y -o OUT FOLDER",
        )
