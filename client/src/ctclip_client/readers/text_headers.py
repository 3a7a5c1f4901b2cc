"""The headers of NRRD and MetaImage, lines of text, as far as SimpleITK cannot be left alone.

It takes what names no orientation for one, opens whatever file a header points at, and returns
damaged packed voxels of a MetaImage as if nothing was wrong. So these are looked at before.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from isal import isal_zlib

from ctclip_client.errors import Unreadable
from ctclip_client.readers.gzip_stream import LARGEST_RATIO
from ctclip_client.readers.remedies import COPY_AGAIN, by_simpleitk
from ctclip_client.readers.size import check_size

LONGEST_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_SPACES = (
    "leftposteriorsuperior", "rightanteriorsuperior", "leftanteriorsuperior", "lps", "ras", "las"
)  # fmt: skip
_MILLIMETRES = ("mm", "millimeter", "millimeters", "")
_SAFE = re.compile(r"-?\d{1,9}|ascii|te?xt|hex|bz(?:ip)?2|[cnμu]?m|in|pixel")
"""What an error may repeat of a header, where else the patient's name may stand."""
_GZIP, _ZLIB = 31, 15
_ERROR = cast(type[Exception], isal_zlib.error)
_TRUE, _FALSE = ("true", "1"), ("false", "0")


class Digest(Protocol):
    """As `hashlib` makes them."""

    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True)
class TextHeader:
    """What a header says of where its voxels lie.

    path: of the header. data: the file of the voxels, which may be the same. offset: where they
    begin in it. shape: (i, j, k). placed: whether an orientation is named. window: zlib's, None
    where the voxels are not packed. packed_bytes: how many, None where they go on to the end.
    spaced: whether the edges of a voxel are named.
    """

    path: Path
    data: Path
    offset: int
    shape: tuple[int, int, int]
    placed: bool
    window: int | None
    packed_bytes: int | None = None
    spaced: bool = True

    def check_size(self, nbytes: int) -> None:
        """Compare what is there with the bytes of all voxels.

        Raises: Unreadable, OSError.
        """
        there = self.data.stat().st_size - self.offset
        if self.window is None:  # a size that is wrong by one leaves more behind than padding is
            fits = 0 <= there - nbytes < max(nbytes // max(self.shape), 1)
        else:
            fits = nbytes <= there * LARGEST_RATIO and (self.packed_bytes or 0) <= there
        if not fits:
            raise Unreadable(
                f"{self.path}: damaged or cut short: the header promises {self.shape} voxels "
                f"({nbytes:,} bytes{'' if self.window is None else ', packed'}), and "
                f"{max(there, 0):,} bytes are there.",
                COPY_AGAIN,
            )
        check_size(str(self.path), math.prod(self.shape), nbytes)

    def check_data(self, nbytes: int, digest: Digest) -> None:
        """Read the voxels for their own checksum, where they are packed, and for a digest of the
        file (of two files: of their digests, the header's first).

        Raises: Unreadable, OSError.
        """
        whole = digest
        if self.data != self.path:
            digest.update(hashlib.sha256(self.path.read_bytes()).digest())
            whole = hashlib.sha256()
        stream = None if self.window is None else isal_zlib.decompressobj(self.window)
        unpacked = 0
        with self.data.open("rb") as file:
            whole.update(file.read(self.offset))
            left = self.packed_bytes
            while chunk := file.read(_CHUNK_BYTES):
                whole.update(chunk)
                packed = chunk if left is None else chunk[:left]
                left = None if left is None else left - len(packed)
                while stream is not None and packed and not stream.eof and unpacked <= nbytes:
                    try:
                        unpacked += len(stream.decompress(packed, 4 * _CHUNK_BYTES))
                    except _ERROR as error:
                        raise Unreadable(
                            f"{self.path}: damaged packed voxels ({error}).", COPY_AGAIN
                        ) from error
                    packed = stream.unconsumed_tail
        if whole is not digest:
            digest.update(cast("hashlib._Hash", whole).digest())
        if stream is not None and (unpacked != nbytes or not stream.eof):
            raise Unreadable(
                f"{self.path}: damaged or cut short: {unpacked:,} bytes of voxels, expected "
                f"{nbytes:,}.",
                COPY_AGAIN,
            )


def nrrd_header(path: Path, head: bytes) -> TextHeader:
    """Read the fields of an NRRD file that count here. Raises: Unreadable."""
    fields, offset = _fields(path, head, b":", last=b"")
    detached = fields.get("datafile")
    if "dimension" not in fields or "sizes" not in fields:
        raise Unreadable(f"{path}: a damaged header, without dimension or sizes.", COPY_AGAIN)
    for unit in fields.get("spaceunits", "").replace('"', " ").split():
        _expect(path, "space units", unit, _MILLIMETRES)  # SimpleITK looks at none
    space = fields.get("space", "").replace("-", "")
    placed = space in _SPACES and "spacedirections" in fields
    for name in ("byteskip", "lineskip"):
        _expect(path, name, fields.get(name, "0"), ("0",), by_command=placed)
    encoding = fields.get("encoding", "")
    _expect(path, "encoding", encoding, ("raw", "gzip", "gz"), by_command=placed)
    return TextHeader(
        path,
        path if detached is None else _beside(path, detached),
        offset if detached is None else 0,
        _shape(path, fields["dimension"], fields["sizes"]),
        placed=placed,
        window=None if encoding == "raw" else _GZIP,
    )


def meta_image_header(path: Path, head: bytes) -> TextHeader:
    """Read the fields of a MetaImage file that count here. Raises: Unreadable."""
    fields, offset = _fields(path, head, b"=", last=b"ElementDataFile")
    missing = {"NDims", "DimSize", "ElementType", "ElementDataFile"} - set(fields)
    if missing:
        raise Unreadable(f"{path}: a damaged header, without {min(missing)}.", COPY_AGAIN)
    placed = not {"TransformMatrix", "Rotation", "Orientation"}.isdisjoint(fields)
    spaced = not {"ElementSpacing", "ElementSize"}.isdisjoint(fields)
    for name, usual, expected in (("HeaderSize", "0", ("0",)), ("BinaryData", "true", _TRUE)):
        _expect(path, name, fields.get(name, usual), expected, by_command=placed and spaced)
    compressed = fields.get("CompressedData", "false")
    _expect(path, "CompressedData", compressed, (*_TRUE, *_FALSE))
    packed = compressed in _TRUE
    size = fields.get("CompressedDataSize", "")
    if packed and not (size.isascii() and size.isdigit() and len(size) < 16):
        # Without it SimpleITK fills the volume with whatever lies in memory.
        raise Unreadable(f"{path}: a damaged header: CompressedDataSize is no number.", COPY_AGAIN)
    name = fields["ElementDataFile"]
    local = name in ("LOCAL", "Local", "local")
    return TextHeader(
        path,
        path if local else _beside(path, name),
        offset if local else 0,
        _shape(path, fields["NDims"], fields["DimSize"]),
        placed=placed,
        window=_ZLIB if packed else None,
        packed_bytes=int(size) if packed else None,
        spaced=spaced,
    )


def _fields(path: Path, head: bytes, sign: bytes, last: bytes) -> tuple[Mapping[str, str], int]:
    """Values by name, in lower case (a file's name as it is), and where the header ends: behind an
    empty line, or the line of the last field. NRRD's names are without blanks and in lower case."""
    fields: dict[str, str] = {}
    offset = 0
    for line in head.removesuffix(b"\n").split(b"\n"):
        offset += len(line) + 1
        name, found, value = line.strip().partition(sign)
        if not line.strip() and not last:
            return fields, offset
        if not found or line.startswith(b"#") or value.startswith(b"="):  # a comment, or free text
            continue
        key = name.decode("latin-1").strip()
        if not last:
            key = key.replace(" ", "").lower()
        text = value.strip().decode("utf-8", "replace")
        if key in fields and key != "Comment":
            raise Unreadable(f"{path}: a damaged header: a field stands there twice.", COPY_AGAIN)
        fields[key] = text if key in ("datafile", "ElementDataFile") else text.lower()
        if last and name.strip() == last:
            return fields, offset
    if len(head) < LONGEST_BYTES and "datafile" in fields:
        return fields, offset
    raise Unreadable(f"{path}: a damaged header, which does not end.", COPY_AGAIN)


def _expect(
    path: Path, name: str, value: str, expected: tuple[str, ...], *, by_command: bool = False
) -> None:
    """by_command: whether SimpleITK would write a true file of it. It makes up what is missing."""
    if value not in expected:
        told = f" ({value})" if _SAFE.fullmatch(value) else ""
        raise Unreadable(
            f"{path}: {name} is none that is read here{told}, expected "
            f"{' or '.join(filter(None, expected))}.",
            f"Write it anew as NIfTI: {by_simpleitk(path)}"
            if by_command
            else "Write it anew so, with orientation and with spacing in millimetres, by the tool "
            "that it comes from.",
        )


def _shape(path: Path, count: str, sizes: str) -> tuple[int, int, int]:
    numbers = [
        int(size) if size.isascii() and size.isdigit() and len(size) < 10 else 0
        for size in sizes.split()
    ]
    if count != "3" or len(numbers) != 3 or 0 in numbers or math.prod(numbers) >= 1 << 40:
        raise Unreadable(
            f"{path}: the number of axes is not 3, or their sizes are not three numbers above 0: "
            "expected one volume of three axes.",
            f"Choose one volume, of one number a voxel, or copy the file again. {COPY_AGAIN}",
        )
    return numbers[0], numbers[1], numbers[2]


def _beside(path: Path, name: str) -> Path:
    """The file of the voxels, which lies in the same folder. To SimpleITK, LIST is a list of other
    files, - the standard input, and % a pattern."""
    data = path.parent / name
    special = name.upper().startswith("LIST") or name.startswith("-") or {*name} & {*"/\\%\0"}
    if not name or name in (".", "..") or special or not data.is_file():
        raise Unreadable(
            f"{path}: where its voxels are is not the name of one file that lies beside it (names "
            "with / \\ or %, and such that begin with LIST or -, are not followed).",
            "Put the two files of the pair into one folder, under the names that they were "
            "written with.",
        )
    return data
