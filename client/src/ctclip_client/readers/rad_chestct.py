"""The `.npz` files of RAD-ChestCT: one array, whose place in the patient its authors' code tells.

They are `numpy.savez` archives of an array `ct`: int16 Hounsfield units, clipped to −1000…1000,
resampled to 0.8 mm, with axes from superior to inferior, anterior to posterior, right to left.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.grid import AffineForm, Grid
from ctclip_client.readers.format import Options, Series, Stored
from ctclip_client.readers.gzip_stream import LARGEST_RATIO
from ctclip_client.readers.remedies import COPY_AGAIN
from ctclip_client.readers.size import check_size

SPACING_MM = 0.8
_MEMBER = "ct.npy"
_ZIP_MAGIC = b"PK\3\4"
_NAME_LENGTH, _NAME = slice(26, 28), 30  # of the first member, in its local header
_MILLIMETRES, _SCANNER = 2, 1
_CHUNK_BYTES = 4 << 20
# (slice, row, column) towards inferior, posterior, left, in RAS+ millimetres.
_AFFINE = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], np.float64)
_AFFINE[:3, :3] *= SPACING_MM
_EXPECTED = "expected one array, ct, of int16 (slice, row, column), as RAD-ChestCT has it"
_REMEDY = (
    "Take the file as it is published, or read another array with numpy and make a volume of it: "
    "Volume.from_array(voxels, spacing_mm, rescale)."
)


class RadChestCT:
    """One scan a file; any `.npz` is taken for one, and refused if it is none."""

    name = "RAD-ChestCT"
    suffixes: tuple[str, ...] = (".npz",)

    def sniff(self, head: bytes, path: Path, /) -> bool:
        """A zip archive that is named .npz, or begins with the array."""
        length = int.from_bytes(head[_NAME_LENGTH], "little")
        named = path.name.lower().endswith(self.suffixes)
        array = head[_NAME : _NAME + length] == _MEMBER.encode()
        return head.startswith(_ZIP_MAGIC) and (named or array)

    def series(self, _path: Path, /) -> tuple[Series]:
        """The one of the file."""
        return (Series(),)

    def read(self, path: Path, series: Series, options: Options, /) -> Stored:
        """Read the header of the array, and refuse whatever it can be refused for."""
        with _member(path) as (file, size):
            shape, c_order, nbytes = _header(path, file)
            if file.tell() + nbytes != size:
                raise Unreadable(
                    f"{path}: damaged: the array is said to have {nbytes:,} bytes, and "
                    f"{size - file.tell():,} are there.",
                    COPY_AGAIN,
                )
        check_size(str(path), math.prod(shape), nbytes)
        placed = not options.as_stored
        return Stored(
            voxels=lambda: _voxels(path, shape, c_order),
            spacing_mm=(SPACING_MM,) * 3 if placed else None,
            affine=_AFFINE if placed else None,
            series=series,
            spacing_source="RAD-ChestCT's own",
            rescale_source="stored values are HU, clipped to −1000…1000 (RAD-ChestCT)",
            sha256=lambda: _sha256(path),
            grid=Grid(
                shape, (SPACING_MM,) * 3, _MILLIMETRES, AffineForm.of(_AFFINE, _SCANNER), None
            ),
        )


@contextmanager
def _member(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """The array in the archive, as a stream, and its bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if names != [_MEMBER]:
                raise Unreadable(
                    f"{path}: the archive holds {len(names)} files, "
                    f"{'among them ct' if _MEMBER in names else 'none of them ct'}; {_EXPECTED}.",
                    _REMEDY,
                )
            info = archive.getinfo(_MEMBER)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Unreadable(
                    f"{path}: compressed by method {info.compress_type} of zip, expected 0 or 8 "
                    "(deflate), as numpy writes it.",
                    _REMEDY,
                )
            if info.file_size > path.stat().st_size * LARGEST_RATIO:
                raise Unreadable(
                    f"{path}: damaged: {info.file_size:,} bytes are said to be packed in "
                    f"{path.stat().st_size:,}.",
                    COPY_AGAIN,
                )
            with archive.open(info) as file:
                yield file, info.file_size
    except (Unreadable, OSError, MemoryError):
        raise
    except Exception as error:  # what damaged ones raise has no end
        raise Unreadable(
            f"{path}: a damaged archive ({type(error).__name__}).", COPY_AGAIN
        ) from error


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, int, int], bool, int]:
    """Shape, whether in C order, and bytes of an array; the stream stands at its values then."""
    try:
        form: Any = np.lib.format  # untyped
        version = form.read_magic(file)
        read = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # it is parsed as Python
        raise Unreadable(f"{path}: the header of the array is damaged.", COPY_AGAIN) from error
    if dtype != np.dtype("<i2") or len(shape) != 3 or min(shape) < 1:
        raise Unreadable(f"{path}: the array is {dtype} of shape {shape}, {_EXPECTED}.", _REMEDY)
    i, j, k = (int(size) for size in shape)
    return (i, j, k), not fortran, i * j * k * dtype.itemsize


def _voxels(path: Path, shape: tuple[int, int, int], c_order: bool) -> NDArray[Any]:
    flat = np.empty(shape[0] * shape[1] * shape[2], "<i2")
    room, done = flat.view(np.uint8).data, 0
    with _member(path) as (file, _):
        _header(path, file)
        while got := file.readinto(room[done : done + _CHUNK_BYTES]):  # type: ignore[attr-defined]
            done += got
        if done < flat.nbytes or file.read(1):  # its checksum is compared at the end
            raise Unreadable(f"{path}: damaged: {done:,} bytes of voxels.", COPY_AGAIN)
    return flat.reshape(shape, order="C" if c_order else "F")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
