"""NIfTI-1 and NIfTI-2 in one file. nibabel reads the header; the voxels are read here, once.

Not nibabel's `get_fdata()` (float64, four times the memory), and not its array proxy either: it
stops before the end of the gzip stream, where the checksum of the file stands.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.readers.format import Options, Series, Stored
from ctclip_client.readers.gzip_stream import LARGEST_RATIO, Digest, GzipStream, opened
from ctclip_client.readers.nifti_placement import Placement
from ctclip_client.readers.remedies import COPY_AGAIN, as_one_file, first_volume
from ctclip_client.readers.size import check_size

if TYPE_CHECKING:
    from nibabel import Nifti1Header

_HEADERS = {1: (344, 348), 2: (4, 540)}
"""Of each version: where the magic stands, and how many bytes the header has."""
_LARGEST_HEADER_BYTES = 540
_SINGLE_FILE = (b"n+1\0", b"n+2\0")
_PAIR = (b"ni1\0", b"ni2\0")
# What dcm2niix calls the copies that it resamples, a number behind.
_RESAMPLED = {"_Tilt": "a tilted gantry", "_Eq": "uneven steps between the slices"}
_RESAMPLED_NAME = re.compile(r"(_Tilt|_Eq)(_Eq)?(_\d+)?[a-z]?(\.nii)?(\.gz)?$")
_CHUNK_BYTES = 4 << 20
_LARGEST_OFFSET = 64 << 20
_LARGEST_TAIL_BYTES = 1 << 20
"""Behind the voxels: padding has less, a further volume has more."""
# What NIfTI-2 has behind its magic. A transfer that takes a file for text changes it.
_LINE_ENDS, _NO_LINE_ENDS = b"\r\n\x1a\n", b"\0\0\0\0"


class Nifti:
    """One scan a file, plain or in gzip."""

    name = "NIfTI"
    suffixes: tuple[str, ...] = (".nii.gz", ".nii")

    def sniff(self, head: bytes, _path: Path, /) -> bool:
        """The magic of NIfTI; also of a pair, which `read` refuses."""
        return any(_magic(head, version) in (*_SINGLE_FILE, *_PAIR) for version in _HEADERS)

    def series(self, _path: Path, /) -> tuple[Series]:
        """The one of the file."""
        return (Series(),)

    def read(self, path: Path, series: Series, options: Options, /) -> Stored:
        """Read the header, and refuse whatever it can be refused for; then voxels on demand."""
        if not options.as_stored:
            _check_name(path)
        with opened(path) as stream:
            header = _header(path, stream.read(_LARGEST_HEADER_BYTES))
            packed = isinstance(stream, GzipStream)
        shape = _shape(path, header)
        offset, dtype = _layout(path, packed, header, shape)
        placement = Placement(header)
        affine = spacing_mm = None
        notes: tuple[str, ...] = ()
        if not options.as_stored:
            affine, spacing_mm, notes = placement.in_force(path)
        elif options.metadata is not None:
            notes = placement.contradicting(path, options.metadata)
        slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
        digest = hashlib.sha256()
        # NIfTI: a slope of 0 means no scaling; nibabel writes NaN for it.
        stated = slope != 0 and not math.isnan(slope)
        return Stored(
            voxels=lambda: _voxels(path, offset, dtype, shape, digest),
            spacing_mm=spacing_mm,
            affine=affine,
            rescale=(slope, intercept) if stated else None,
            notes=notes,
            series=series,
            sha256=digest.hexdigest,
            grid=placement.grid(shape),
        )


def _check_name(path: Path) -> None:
    """Refuse what dcm2niix has resampled: nothing but the name tells it from what was acquired."""
    found = _RESAMPLED_NAME.search(path.name)
    if found is not None:
        raise Unreadable(
            f"{path}: named {found[1]}, as dcm2niix names a copy that it has resampled for "
            f"{_RESAMPLED[found[1]]}; nothing that was resampled is scored.",
            "Take another series of the study. If this is no such copy, or if you want it as it "
            "is, give the file another name.",
        )


@contextmanager
def _damaged(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Say what nibabel found damaged while reading it."""
    from nibabel.spatialimages import HeaderDataError

    try:
        yield
    except (HeaderDataError, ValueError, KeyError) as error:
        raise Unreadable(f"{path}: {what} ({error}).", remedy) from error


def _magic(head: bytes, version: int) -> bytes:
    start, _ = _HEADERS[version]
    return head[start : start + 4]


def _header(path: Path, head: bytes) -> Nifti1Header:
    from nibabel import Nifti1Header, Nifti2Header

    version = 1 if _magic(head, 1) in (*_SINGLE_FILE, *_PAIR) else 2
    if _magic(head, version) in _PAIR:
        raise Unreadable(
            f"{path}: half of a NIfTI pair (.hdr and .img).",
            f"Make one file of the pair: {as_one_file(path)}",
        )
    _, size = _HEADERS[version]
    if len(head) < size:
        raise Unreadable(f"{path}: ends inside the header.", COPY_AGAIN)
    if version == 2 and head[8:12] not in (_LINE_ENDS, _NO_LINE_ENDS):
        raise Unreadable(
            f"{path}: line ends were converted, as in a text ({head[8:12]!r} behind the magic, "
            f"expected {_LINE_ENDS!r}).",
            "Transfer the file again, as binary.",
        )
    with _damaged(path, "damaged header", COPY_AGAIN):
        return (Nifti1Header if version == 1 else Nifti2Header)(head[:size], check=False)


def _shape(path: Path, header: Nifti1Header) -> tuple[int, int, int]:
    count = int(header["dim"][0])
    sizes = tuple(int(size) for size in header["dim"][1 : 1 + max(count, 0)])
    if not 1 <= count <= 7 or min(sizes) < 0 or 0 in sizes[:3]:
        raise Unreadable(f"{path}: damaged header: dim is {[count, *sizes]}.", COPY_AGAIN)
    if count < 3 or max(sizes[3:], default=1) > 1:  # 0 is 1 there, as in NIfTI's reference code
        raise Unreadable(
            f"{path}: the array has shape {sizes}, expected one volume of three axes.",
            "Stack the slices of a scan into one volume of three axes."
            if count < 3
            else f"Choose one volume, for instance the first: {first_volume(path, count)}",
        )
    return sizes[0], sizes[1], sizes[2]


def _layout(
    path: Path, packed: bool, header: Nifti1Header, shape: tuple[int, int, int]
) -> tuple[int, np.dtype[Any]]:
    """Where the voxels begin in the unpacked file, in bytes, and what each of them is."""
    code = int(header["datatype"])
    with _damaged(path, f"damaged header: datatype {code} is none of NIfTI's", COPY_AGAIN):
        dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise Unreadable(
            f"{path}: voxels of type {dtype}, expected one integer or float number each.",
            "Write Hounsfield units, one number a voxel, into a new file: "
            "nibabel.save(nibabel.Nifti1Image(hu, nibabel.load(path).affine), 'fixed.nii.gz')",
        )
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset <= _LARGEST_OFFSET or not offset.is_integer():
        raise Unreadable(f"{path}: damaged header: vox_offset is {offset:g}.", COPY_AGAIN)
    nbytes, size = math.prod(shape) * dtype.itemsize, path.stat().st_size
    if offset + nbytes > size * (LARGEST_RATIO if packed else 1):
        raise Unreadable(
            f"{path}: cut short: the header promises {shape} voxels ({nbytes:,} bytes), the "
            f"file has {size:,} bytes.",
            COPY_AGAIN,
        )
    check_size(str(path), math.prod(shape), nbytes)
    return int(offset), dtype


def _voxels(
    path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, int, int], digest: Digest
) -> NDArray[Any]:
    """Read the array (i, j, k) in Fortran order, into its only copy; and the file's digest."""
    flat = np.empty(math.prod(shape), dtype)
    room = flat.view(np.uint8).data
    done = behind = 0
    with opened(path, digest) as stream:
        while offset and (skipped := stream.read(min(offset, _CHUNK_BYTES))):
            offset -= len(skipped)
        while done < flat.nbytes:
            got = stream.readinto(room[done : done + _CHUNK_BYTES])  # type: ignore[attr-defined]
            if not got:
                raise Unreadable(
                    f"{path}: cut short: {done:,} bytes of voxels, expected {flat.nbytes:,}.",
                    COPY_AGAIN,
                )
            done += got
        while more := stream.read(_CHUNK_BYTES):  # gzip's checksum is compared at its end
            behind += len(more)
            if behind > _LARGEST_TAIL_BYTES:
                raise Unreadable(
                    f"{path}: more than {_LARGEST_TAIL_BYTES:,} bytes behind the {shape} voxels "
                    "that the header promises.",
                    f"The header or the file is wrong. {COPY_AGAIN}",
                )
    return flat.reshape(shape, order="F")
