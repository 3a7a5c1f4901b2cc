"""NIfTI-1 and NIfTI-2 in one file. nibabel reads the header; the voxels are read here, once.

Not nibabel's `get_fdata()` (float64, four times the memory), and not its array proxy either: it
stops before the end of the gzip stream, where the checksum of the file stands.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from nibabel import Nifti1Header, Nifti2Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.grid import AffineForm, Grid
from ctclip_client.readers._detect import NiftiForm
from ctclip_client.readers._hounsfield import check_plausible, to_int16
from ctclip_client.readers._options import Options
from ctclip_client.readers._orientation import (
    LARGEST_SHEAR_DEG,
    LARGEST_TILT_DEG,
    Orientation,
    orientation_of,
)
from ctclip_client.volume import Source, Volume, checked_rescale, checked_spacing_mm

_COPY_AGAIN = "Copy or download the file again; if that does not help, convert it from DICOM anew."
_CONVERT = "Convert the scan again from DICOM: dcm2niix -z y -o OUT FOLDER"
_AS_STORED = (
    "If the stored array is known to run [x, y, z] towards Left, Posterior, Superior, ask for "
    "as_stored with the spacing (--as-stored --spacing z,x,y)."
)
_MM_PER_UNIT = {0: Decimal(1), 1: Decimal(1000), 2: Decimal(1), 3: Decimal("0.001")}
_UNIT_NAMES = {0: "unknown, taken as millimetres", 1: "metres", 3: "microns"}
_SPATIAL_UNIT_BITS = 0x07
_CHUNK_BYTES = 4 << 20
_LARGEST_GZIP_RATIO = 1040  # deflate's own limit is 1032
_SPACING_TOLERANCE = 0.01
_TILT_WORTH_TELLING_DEG = 0.5


# Damaged floats are found by looking at them, not by numpy's warnings.
@np.errstate(invalid="ignore", over="ignore")
def read_nifti(path: Path, form: NiftiForm, options: Options) -> Volume:
    """Read one file; see `ctclip_client.readers.read_volume`."""
    with path.open("rb") as raw:
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if form.compressed else raw
        try:
            header = _header(path, form, stream.read(form.header_bytes))
            shape = _shape(path, header)
            # Everything the header can be refused for comes before the voxels are read.
            placement = _as_stored(options) if options.as_stored else _by_affine(path, header)
            rescale, hu_source = _rescale(path, header, options)
            stored = _voxels(path, form, stream, _layout(path, form, header, shape))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Unreadable(f"{path}: damaged or cut short ({error}).", _COPY_AGAIN) from error
    voxels, rescale, exact = to_int16(stored, rescale, str(path))
    del stored
    voxels = placement.place(voxels)
    if not exact:
        hu_source += "; sent as 1/32 HU, clipped to −1000…1000"
    check_plausible(voxels, rescale, str(path))
    grid = _grid(header, shape, placement)
    source = Source(placement.orientation, hu_source, str(path), None, placement.notes, grid)
    return Volume(voxels, placement.spacing_mm, rescale, source)


@dataclass(frozen=True)
class _Placement:
    """axes, flips: the stored axis that becomes z, x, y, and whether it is read backwards."""

    orientation: str
    spacing_mm: tuple[float, float, float]
    place: Callable[[NDArray[np.int16]], NDArray[np.int16]]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    notes: tuple[str, ...] = ()


def _as_stored(options: Options) -> _Placement:
    if options.spacing_mm is None:
        raise InvalidInput("as_stored without spacing_mm.", "Give it as (z, x, y) in millimetres.")
    axes = (2, 0, 1)
    return _Placement(
        "as stored",
        options.spacing_mm,
        lambda array: array.transpose(axes),
        axes,
        (False, False, False),
    )


def _by_affine(path: Path, header: Nifti1Header) -> _Placement:
    notes = []
    unit = int(header["xyzt_units"]) & _SPATIAL_UNIT_BITS
    if unit not in _MM_PER_UNIT:
        raise Unreadable(f"{path}: unit code {unit} of xyzt_units is none of NIfTI's.", _CONVERT)
    mm_per_unit = _MM_PER_UNIT[unit]
    if mm_per_unit != 1:
        notes.append(f"The header is in {_UNIT_NAMES[unit]}; the spacing was converted.")
    orientation = _orientation(path, header)
    edges = tuple(
        _shortest_decimal(header["pixdim"][1 + axis]) * mm_per_unit for axis in orientation.axes
    )
    try:
        spacing_mm = checked_spacing_mm([float(edge) for edge in edges])
    except InvalidInput as error:
        raise Unreadable(f"{path}: {error.cause}", _CONVERT) from error
    columns = np.linalg.norm(header.get_best_affine()[:3, :3], axis=0) * float(mm_per_unit)
    for axis, edge in zip(orientation.axes, spacing_mm, strict=True):
        if abs(columns[axis] - edge) > _SPACING_TOLERANCE * edge:
            raise Unreadable(
                f"{path}: the header contradicts itself: pixdim says {edge:g} mm along axis "
                f"{axis}, the affine {columns[axis]:g} mm.",
                _CONVERT,
            )
    if orientation.tilt_deg > _TILT_WORTH_TELLING_DEG:
        notes.append(
            f"The grid is tilted by {orientation.tilt_deg:.1f}° against the patient; the closest "
            f"axes ({orientation.codes}) were taken, nothing was resampled."
        )
    return _Placement(
        orientation.codes,
        spacing_mm,
        orientation.apply,
        orientation.axes,
        orientation.flips,
        tuple(notes),
    )


def _grid(header: Nifti1Header, shape: tuple[int, int, int], placement: _Placement) -> Grid:
    """What an image on the same voxels needs; with as_stored as good as the header has it."""
    try:
        qform = header.get_qform(coded=True)
    except (HeaderDataError, ValueError):  # damaged quaternions, which nobody has relied on
        qform = (None, 0)
    i, j, k = (abs(float(edge)) for edge in header.get_zooms()[:3])
    return Grid(
        shape=shape,
        pixdim=(i, j, k),
        unit=int(header["xyzt_units"]) & _SPATIAL_UNIT_BITS,
        axes=placement.axes,
        flips=placement.flips,
        sform=AffineForm.of(*header.get_sform(coded=True)),
        qform=AffineForm.of(*qform),
    )


def _orientation(path: Path, header: Nifti1Header) -> Orientation:
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform <= 0 and qform <= 0:
        raise Unreadable(
            f"{path}: no orientation in the header (sform_code and qform_code are 0).", _AS_STORED
        )
    try:
        affine = header.get_best_affine()
        by_qform = header.get_qform() if sform > 0 and qform > 0 else affine
    except (HeaderDataError, ValueError) as error:
        raise Unreadable(f"{path}: the orientation is damaged ({error}).", _CONVERT) from error
    if np.array_equal(affine, np.eye(4)):
        raise Unreadable(
            f"{path}: a blank orientation in the header (identity affine, voxels of 1 mm).",
            _AS_STORED,
        )
    found, other = orientation_of(affine), orientation_of(by_qform)
    if found is None or other is None:
        raise Unreadable(
            f"{path}: the affine names no patient axis for every array axis.", _CONVERT
        )
    if found.codes != other.codes:
        raise Unreadable(
            f"{path}: the header contradicts itself: sform says {found.codes}, qform "
            f"{other.codes}.",
            _CONVERT,
        )
    if found.shear_deg > LARGEST_SHEAR_DEG:
        raise Unreadable(
            f"{path}: the grid is sheared by {found.shear_deg:.1f}° (a tilted gantry), expected at "
            f"most {LARGEST_SHEAR_DEG:g}°.",
            "Resample it onto a rectangular grid; dcm2niix writes such a file as ..._Tilt.nii.gz.",
        )
    if found.tilt_deg > LARGEST_TILT_DEG:
        raise Unreadable(
            f"{path}: the grid is tilted by {found.tilt_deg:.0f}° against the patient, expected at "
            f"most {LARGEST_TILT_DEG:g}° (closest axes: {found.codes}).",
            "Resample it onto the patient's axes, or take the axial series of the same study.",
        )
    return found


def _rescale(path: Path, header: Nifti1Header, options: Options) -> tuple[tuple[float, float], str]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # NIfTI: a slope of 0 means no scaling; nibabel writes NaN for it.
    stated = slope != 0 and not math.isnan(slope)
    in_header = f"slope {slope:g}, intercept {intercept:g}" if stated else "no scaling"
    if options.rescale is not None:
        given = f"slope {options.rescale[0]:g}, intercept {options.rescale[1]:g}"
        unused = f" (not used: the header's {in_header})" if stated else ""
        return options.rescale, f"given: {given}{unused}"
    if not stated:
        return (1.0, 0.0), "stored values are HU (no scaling in the header)"
    try:
        return checked_rescale((slope, intercept)), f"header: {in_header}"
    except InvalidInput as error:
        raise Unreadable(
            f"{path}: scl_slope, scl_inter: {error.cause}",
            "Give the scan's own (slope, intercept), which replace the header's.",
        ) from error


def _header(path: Path, form: NiftiForm, block: bytes) -> Nifti1Header:
    kind = Nifti1Header if form.version == 1 else Nifti2Header
    try:
        return kind(block, check=False)
    except (HeaderDataError, ValueError) as error:
        raise Unreadable(f"{path}: damaged header ({error}).", _COPY_AGAIN) from error


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


@dataclass(frozen=True)
class _Layout:
    """Where the voxels lie: byte offset in the decompressed stream, dtype, shape (i, j, k)."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, int, int]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _layout(
    path: Path, form: NiftiForm, header: Nifti1Header, shape: tuple[int, int, int]
) -> _Layout:
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        code = int(header["datatype"])
        raise Unreadable(
            f"{path}: damaged header: datatype {code} is none of NIfTI's.", _COPY_AGAIN
        ) from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise Unreadable(
            f"{path}: voxels of type {dtype}, expected one integer or float number each.", _CONVERT
        )
    offset = float(header["vox_offset"])
    if not offset >= form.header_bytes or not offset.is_integer():
        raise Unreadable(f"{path}: damaged header: vox_offset is {offset:g}.", _COPY_AGAIN)
    layout = _Layout(int(offset), dtype, shape)
    room = path.stat().st_size * (_LARGEST_GZIP_RATIO if form.compressed else 1)
    if layout.offset + layout.nbytes > room:
        raise Unreadable(
            f"{path}: cut short: the header promises {shape} voxels ({layout.nbytes:,} bytes), the "
            f"file has {path.stat().st_size:,} bytes.",
            _COPY_AGAIN,
        )
    return layout


def _voxels(path: Path, form: NiftiForm, stream: IO[bytes], layout: _Layout) -> NDArray[Any]:
    """Read the array (i, j, k) in Fortran order, into its only copy."""
    stream.seek(layout.offset)
    flat = np.empty(math.prod(layout.shape), layout.dtype)
    room = flat.view(np.uint8).data
    done = 0
    # In pieces: GzipFile.readinto would hold all that it is asked for a second time.
    while done < layout.nbytes:
        got = stream.readinto(room[done : done + _CHUNK_BYTES])  # type: ignore[attr-defined]
        if not got:
            raise Unreadable(
                f"{path}: cut short: {done:,} bytes of voxels, expected {layout.nbytes:,}.",
                _COPY_AGAIN,
            )
        done += got
    if form.compressed:
        while stream.read(_CHUNK_BYTES):  # the checksum is compared at the end of the stream
            pass
    return flat.reshape(layout.shape, order="F")


def _shortest_decimal(value: np.floating[Any]) -> Decimal:
    """The decimal that a float32 stands for: 0.9, not 0.8999999762 (sizes hang on it)."""
    narrow = np.float32(value)
    return Decimal(str(narrow if float(narrow) == float(value) else value))
