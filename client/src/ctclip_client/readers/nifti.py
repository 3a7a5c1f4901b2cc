"""NIfTI-1 and NIfTI-2 in one file. nibabel reads the header; the voxels are read here, once.

Not nibabel's `get_fdata()` (float64, four times the memory), and not its array proxy either: it
stops before the end of the gzip stream, where the checksum of the file stands.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.grid import AffineForm, Grid
from ctclip_client.readers.format import GZIP_MAGIC, Options, Series, Stored
from ctclip_client.readers.orientation import orientation_of

if TYPE_CHECKING:
    from nibabel import Nifti1Header

_COPY_AGAIN = "Copy or download the file again; if that does not help, convert it from DICOM anew."
_CONVERT = "Convert the scan again from DICOM: dcm2niix -z y -o OUT FOLDER"
_AS_STORED = (
    "If the stored array is known to run [x, y, z] towards Left, Posterior, Superior, ask for "
    "as_stored with the spacing (--as-stored --spacing z,x,y)."
)
_HEADERS = {1: (344, 348), 2: (4, 540)}
"""Of each version: where the magic stands, and how many bytes the header has."""
_LARGEST_HEADER_BYTES = 540
_SINGLE_FILE = (b"n+1\0", b"n+2\0")
_PAIR = (b"ni1\0", b"ni2\0")
_MM_PER_UNIT = {0: Decimal(1), 1: Decimal(1000), 2: Decimal(1), 3: Decimal("0.001")}
_CONVERTED = {1: "metres", 3: "microns"}
_SPATIAL_UNIT_BITS = 0x07
_CHUNK_BYTES = 4 << 20
_LARGEST_GZIP_RATIO = 1040  # deflate's own limit is 1032
_SPACING_TOLERANCE = 0.01


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
        with _opened(path) as stream:
            header = _header(path, stream.read(_LARGEST_HEADER_BYTES))
            packed = isinstance(stream, gzip.GzipFile)
        shape = _shape(path, header)
        offset, dtype = _layout(path, packed, header, shape)
        affine, spacing_mm, notes = (
            (None, None, ()) if options.as_stored else _placement(path, header)
        )
        slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
        # NIfTI: a slope of 0 means no scaling; nibabel writes NaN for it.
        stated = slope != 0 and not math.isnan(slope)
        return Stored(
            voxels=lambda: _voxels(path, offset, dtype, shape),
            spacing_mm=spacing_mm,
            affine=affine,
            rescale=(slope, intercept) if stated else None,
            notes=notes,
            series=series,
            grid=_grid(header, shape),
        )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked. Raises: Unreadable where the packing is damaged."""
    with path.open("rb") as raw:
        packed = raw.peek(2).startswith(GZIP_MAGIC)
        try:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Unreadable(f"{path}: damaged or cut short ({error}).", _COPY_AGAIN) from error


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
            "Convert the pair into one file: nibabel.save(nibabel.load(IN), 'out.nii.gz')",
        )
    _, size = _HEADERS[version]
    if len(head) < size:
        raise Unreadable(f"{path}: ends inside the header.", "Copy or download the file again.")
    with _damaged(path, "damaged header", _COPY_AGAIN):
        return (Nifti1Header if version == 1 else Nifti2Header)(head[:size], check=False)


def _placement(
    path: Path, header: Nifti1Header
) -> tuple[NDArray[np.float64], tuple[float, float, float], tuple[str, ...]]:
    """Affine to millimetres, spacing in millimetres along the stored axes, notes.

    Raises: Unreadable where the header has no orientation, or contradicts itself.
    """
    unit = int(header["xyzt_units"]) & _SPATIAL_UNIT_BITS
    if unit not in _MM_PER_UNIT:
        raise Unreadable(f"{path}: unit code {unit} of xyzt_units is none of NIfTI's.", _CONVERT)
    mm_per_unit = _MM_PER_UNIT[unit]
    affine = _affine(path, header)
    affine[:3] *= float(mm_per_unit)
    spacing_mm = [float(_shortest_decimal(e) * mm_per_unit) for e in header["pixdim"][1:4]]
    if orientation_of(affine) is not None:
        lengths_mm = np.linalg.norm(affine[:3, :3], axis=0)
        for axis, (edge, length) in enumerate(zip(spacing_mm, lengths_mm, strict=True)):
            if 0 < _SPACING_TOLERANCE * edge < abs(length - edge):
                raise Unreadable(
                    f"{path}: the header contradicts itself: pixdim says {edge:g} mm along axis "
                    f"{axis}, the affine {length:g} mm.",
                    _CONVERT,
                )
    note = f"The header is in {_CONVERTED.get(unit)}; the spacing was converted."
    notes = (note,) if unit in _CONVERTED else ()
    return affine, (spacing_mm[0], spacing_mm[1], spacing_mm[2]), notes


def _affine(path: Path, header: Nifti1Header) -> NDArray[np.float64]:
    """The header's best affine, in its own unit; two that name different axes are refused."""
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform <= 0 and qform <= 0:
        raise Unreadable(
            f"{path}: no orientation in the header (sform_code and qform_code are 0).", _AS_STORED
        )
    with _damaged(path, "the orientation is damaged", _CONVERT):
        affine: NDArray[np.float64] = header.get_best_affine()
        by_qform = header.get_qform() if sform > 0 and qform > 0 else affine
    if np.array_equal(affine, np.eye(4)):
        raise Unreadable(
            f"{path}: a blank orientation in the header (identity affine, voxels of 1 mm).",
            _AS_STORED,
        )
    found, other = orientation_of(affine), orientation_of(by_qform)
    if found is not None and (other is None or other.codes != found.codes):
        said = "no axes" if other is None else other.codes
        raise Unreadable(
            f"{path}: the header contradicts itself: sform says {found.codes}, qform {said}.",
            _CONVERT,
        )
    return affine


def _grid(header: Nifti1Header, shape: tuple[int, int, int]) -> Grid:
    """What an image on the same voxels needs, as good as the header has it."""
    from nibabel.spatialimages import HeaderDataError

    try:
        qform = header.get_qform(coded=True)
    except (HeaderDataError, ValueError):  # damaged quaternions, which nobody has relied on
        qform = (None, 0)
    i, j, k = (abs(float(edge)) for edge in header.get_zooms()[:3])
    return Grid(
        shape=shape,
        pixdim=(i, j, k),
        unit=int(header["xyzt_units"]) & _SPATIAL_UNIT_BITS,
        sform=AffineForm.of(*header.get_sform(coded=True)),
        qform=AffineForm.of(*qform),
    )


def _shape(path: Path, header: Nifti1Header) -> tuple[int, int, int]:
    count = int(header["dim"][0])
    sizes = tuple(int(size) for size in header["dim"][1 : 1 + max(count, 0)])
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise Unreadable(f"{path}: damaged header: dim is {[count, *sizes]}.", _COPY_AGAIN)
    if count < 3 or any(size != 1 for size in sizes[3:]):
        raise Unreadable(
            f"{path}: the array has shape {sizes}, expected one volume of three axes.",
            "Write the one volume to score into a file of its own.",
        )
    return sizes[0], sizes[1], sizes[2]


def _layout(
    path: Path, packed: bool, header: Nifti1Header, shape: tuple[int, int, int]
) -> tuple[int, np.dtype[Any]]:
    """Where the voxels begin in the unpacked file, in bytes, and what each of them is."""
    code = int(header["datatype"])
    with _damaged(path, f"damaged header: datatype {code} is none of NIfTI's", _COPY_AGAIN):
        dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise Unreadable(
            f"{path}: voxels of type {dtype}, expected one integer or float number each.", _CONVERT
        )
    offset = float(header["vox_offset"])
    if not offset >= header.sizeof_hdr or not offset.is_integer():
        raise Unreadable(f"{path}: damaged header: vox_offset is {offset:g}.", _COPY_AGAIN)
    nbytes, size = math.prod(shape) * dtype.itemsize, path.stat().st_size
    if offset + nbytes > size * (_LARGEST_GZIP_RATIO if packed else 1):
        raise Unreadable(
            f"{path}: cut short: the header promises {shape} voxels ({nbytes:,} bytes), the "
            f"file has {size:,} bytes.",
            _COPY_AGAIN,
        )
    return int(offset), dtype


def _voxels(
    path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, int, int]
) -> NDArray[Any]:
    """Read the array (i, j, k) in Fortran order, into its only copy."""
    flat = np.empty(math.prod(shape), dtype)
    room = flat.view(np.uint8).data
    done = 0
    with _opened(path) as stream:
        stream.seek(offset)
        # In pieces: GzipFile.readinto would hold all that it is asked for a second time.
        while done < flat.nbytes:
            got = stream.readinto(room[done : done + _CHUNK_BYTES])  # type: ignore[attr-defined]
            if not got:
                raise Unreadable(
                    f"{path}: cut short: {done:,} bytes of voxels, expected {flat.nbytes:,}.",
                    _COPY_AGAIN,
                )
            done += got
        while stream.read(_CHUNK_BYTES):  # gzip's checksum is compared at the end of the stream
            pass
    return flat.reshape(shape, order="F")


def _shortest_decimal(value: np.floating[Any]) -> Decimal:
    """The decimal that a float32 stands for: 0.9, not 0.8999999762 (sizes hang on it)."""
    narrow = np.float32(value)
    return Decimal(str(narrow if float(narrow) == float(value) else value))
