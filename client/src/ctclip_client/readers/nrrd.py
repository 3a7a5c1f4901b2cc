"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd), read by SimpleITK."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.grid import AffineForm, Grid
from ctclip_client.readers.format import Options, Series, Stored
from ctclip_client.readers.gzip_stream import GZIP_MAGIC
from ctclip_client.readers.remedies import AS_STORED, COPY_AGAIN, by_gunzip
from ctclip_client.readers.text_headers import (
    LONGEST_BYTES,
    TextHeader,
    meta_image_header,
    nrrd_header,
)
from ctclip_client.system.distributions import how_to_install_extra
from ctclip_client.system.threads import Shared

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

_DTYPES = ("UInt8", "Int8", "UInt16", "Int16", "UInt32", "Int32", "UInt64", "Int64",
           "Float32", "Float64")  # fmt: skip
_MILLIMETRES, _SCANNER = 2, 1
_UNIT_TOLERANCE = 0.01
_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK's axes run to the patient's left, posterior, superior."""


class Nrrd:
    """One scan a file; or a header, and beside it the file of the voxels that it names."""

    name = "NRRD"
    suffixes: tuple[str, ...] = (".nrrd", ".nhdr")

    def sniff(self, head: bytes, _path: Path, /) -> bool:
        """The magic of NRRD."""
        return head.startswith(b"NRRD")

    def series(self, _path: Path, /) -> tuple[Series]:
        """The one of the file."""
        return (Series(),)

    def read(self, path: Path, series: Series, options: Options, /) -> Stored:
        """Read the header, and refuse whatever it can be refused for; then voxels on demand."""
        return _stored("NrrdImageIO", nrrd_header(path, _head(path)), series, options)


class MetaImage:
    """As NRRD."""

    name = "MetaImage"
    suffixes: tuple[str, ...] = (".mha", ".mhd")

    def sniff(self, head: bytes, _path: Path, /) -> bool:
        """The fields that it begins with."""
        return head.startswith((b"ObjectType", b"NDims"))

    def series(self, _path: Path, /) -> tuple[Series]:
        """The one of the file."""
        return (Series(),)

    def read(self, path: Path, series: Series, options: Options, /) -> Stored:
        """As of NRRD."""
        return _stored("MetaImageIO", meta_image_header(path, _head(path)), series, options)


@dataclass(frozen=True, eq=False)
class _Placement:
    """What SimpleITK makes of a header. nbytes: of all voxels. spacing_mm: along (i, j, k).

    affine: (4, 4) float64, from (i, j, k) to (R, A, S) in millimetres.
    """

    nbytes: int
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, header: TextHeader, itk: ImageFileReader) -> Self:
        import SimpleITK

        dtypes = {getattr(SimpleITK, f"sitk{name}"): np.dtype(name.lower()) for name in _DTYPES}
        dtype = dtypes.get(itk.GetPixelIDValue())
        if dtype is None or itk.GetNumberOfComponents() != 1:
            kind = SimpleITK.GetPixelIDValueAsString(itk.GetPixelIDValue())
            raise Unreadable(
                f"{header.path}: voxels of type {kind}, expected one integer or float number each.",
                "Write Hounsfield units, one number a voxel, into a new file.",
            )
        if itk.GetSize() != header.shape:
            raise Unreadable(f"{header.path}: a damaged header.", COPY_AGAIN)
        # Written from float32 by many: 0.9, not 0.8999999762 (sizes hang on it).
        i, j, k = (float(str(np.float32(edge))) for edge in itk.GetSpacing())
        directions = np.array(itk.GetDirection()).reshape(3, 3)
        if not np.allclose(np.linalg.norm(directions, axis=0), 1, rtol=0, atol=_UNIT_TOLERANCE):
            raise Unreadable(
                f"{header.path}: the directions of the axes are no unit vectors.", COPY_AGAIN
            )
        affine = np.eye(4)
        affine[:3, :3] = directions * (i, j, k)
        affine[:3, 3] = itk.GetOrigin()
        return cls(math.prod(header.shape) * dtype.itemsize, (i, j, k), _FROM_LPS @ affine)


def _stored(reader: str, header: TextHeader, series: Series, options: Options) -> Stored:
    if not header.placed and not options.as_stored:
        raise Unreadable(
            f"{header.path}: no orientation in the header (NRRD: space and space directions; "
            "MetaImage: TransformMatrix).",
            AS_STORED,
        )
    if not header.spaced and not options.as_stored:
        raise Unreadable(
            f"{header.path}: no edges of a voxel in the header (ElementSpacing).", AS_STORED
        )
    with _simpleitk(reader, header.path) as itk:
        itk.ReadImageInformation()
        placement = _Placement.of(header, itk)
    header.check_size(placement.nbytes)
    digest = hashlib.sha256()

    def voxels() -> NDArray[Any]:
        import SimpleITK

        header.check_data(placement.nbytes, digest)
        with _simpleitk(reader, header.path) as itk:
            stored: NDArray[Any] = SimpleITK.GetArrayFromImage(itk.Execute())  # (k, j, i)
        return stored.transpose()

    sform = AffineForm.of(placement.affine, _SCANNER) if header.placed else None
    return Stored(
        voxels=voxels,
        spacing_mm=None if options.as_stored else placement.spacing_mm,
        affine=None if options.as_stored else placement.affine,
        series=series,
        sha256=digest.hexdigest,
        grid=Grid(header.shape, placement.spacing_mm, _MILLIMETRES, sform, None),
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(LONGEST_BYTES)
    if head.startswith(GZIP_MAGIC):
        raise Unreadable(
            f"{path}: packed by gzip as a whole, which is read of NIfTI only.",
            f"Unpack it: {by_gunzip(path)}",
        )
    return head


@contextmanager
def _simpleitk(name: str, path: Path) -> Iterator[ImageFileReader]:
    """A reader of a file. What SimpleITK says of a damaged one may quote its header, which may name
    the patient: it is not repeated."""
    try:
        import SimpleITK
    except ImportError as error:
        raise Unreadable(
            f"{path}: NRRD and MetaImage are read by SimpleITK, which is not installed.",
            how_to_install_extra("nrrd"),
        ) from error
    try:
        with _QUIET.kept():
            itk = SimpleITK.ImageFileReader()
            itk.SetImageIO(name)
            itk.SetFileName(str(path))
            yield itk
    except RuntimeError as error:
        raise Unreadable(f"{path}: damaged; SimpleITK cannot read it.", COPY_AGAIN) from error


@contextmanager
def _silent() -> Iterator[None]:
    """None of SimpleITK's warnings: they would show what a header holds."""
    from SimpleITK import ProcessObject

    before = ProcessObject.GetGlobalWarningDisplay()
    ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        ProcessObject.SetGlobalWarningDisplay(before)


_QUIET = Shared(_silent)
