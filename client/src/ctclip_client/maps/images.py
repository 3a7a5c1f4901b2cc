"""NIfTI files that lie on a scan: new headers, whole files or none."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ctclip_client.grid import AffineForm
from ctclip_client.system.files import whole_file

_HEADER_BYTES = 352  # 348 and the four that say that no extension follows
_GZIP_HEAD = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # no name and no time: they tell of the machine
_LAST_BLOCK = b"\x03\x00"  # deflate's empty final block


@dataclass(frozen=True)
class Frame:
    """The header of an image: where it lies (see `ctclip_client.grid.Grid`), and what it is.

    description: at most 79 ASCII characters. largest: what viewers should scale colours to.
    """

    pixdim: tuple[float, ...]
    unit: int
    sform: AffineForm | None
    qform: AffineForm | None
    description: str
    largest: float

    def header(self, shape: tuple[int, ...]) -> bytes:
        """Return the bytes before the voxels, of a float32 image. A new header: nothing of the
        scan's own comes along that is not meant to."""
        from nibabel import Nifti1Header  # only those who write images pay for its import

        header = Nifti1Header(endianness="<")
        header.set_data_dtype(np.float32)
        header.set_data_shape(shape)
        if self.qform is not None:
            header.set_qform(np.array(self.qform.affine), self.qform.code)
        if self.sform is not None:
            header.set_sform(np.array(self.sform.affine), self.sform.code)
        header.set_zooms(self.pixdim)  # last: set_qform leaves its own, rounded
        header["xyzt_units"] = self.unit
        header["scl_slope"], header["scl_inter"] = 1, 0
        header["cal_min"], header["cal_max"] = -self.largest, self.largest
        header["descrip"] = self.description.encode("ascii")
        header["vox_offset"] = _HEADER_BYTES
        block: bytes = header.binaryblock
        return block.ljust(_HEADER_BYTES, b"\0")


def write_image(path: Path, array: NDArray[np.float32], frame: Frame) -> None:
    """Write an array (i, j, k, …) as `.nii.gz`."""
    raw = frame.header(array.shape) + array.astype("<f4").tobytes(order="F")
    with whole_file(path) as file:
        stream = _Gzip(file)
        stream.write(raw)
        stream.end()


def write_blocks(
    path: Path, blocks: NDArray[np.float32], block_of: list[NDArray[np.intp]], frame: Frame
) -> None:
    """Write an image (i, j, k) made of blocks of equal voxels as `.nii.gz`.

    blocks: (I, J, K) values. block_of: for each axis the block of every voxel, −1 for none: 0.

    Slices of one block along the last axis are the same bytes, so they are compressed once. That is
    what makes a map for each finding, each as large as the scan, affordable.
    """
    padded = np.pad(blocks.astype("<f4"), (0, 1))  # index −1 is a plane of zeros
    in_plane = np.ix_(block_of[0], block_of[1])
    compressed: dict[int, tuple[bytes, bytes]] = {}
    with whole_file(path) as file:
        stream = _Gzip(file)
        stream.write(frame.header(tuple(len(axis) for axis in block_of)))
        for block in block_of[2].tolist():
            if block not in compressed:
                plane = padded[..., block][in_plane].tobytes(order="F")
                compressed[block] = plane, _deflated(plane)
            stream.write(*compressed[block])
        stream.end()


class _Gzip:
    """A gzip member put together from pieces that are compressed each for itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._crc = self._size = 0
        file.write(_GZIP_HEAD)

    def write(self, raw: bytes, deflated: bytes | None = None) -> None:
        self._file.write(_deflated(raw) if deflated is None else deflated)
        self._crc = zlib.crc32(raw, self._crc)
        self._size += len(raw)

    def end(self) -> None:
        self._file.write(_LAST_BLOCK)
        self._file.write(self._crc.to_bytes(4, "little"))
        self._file.write((self._size % 2**32).to_bytes(4, "little"))


def _deflated(raw: bytes) -> bytes:
    """Blocks that refer to nothing before them and are not the last ones of their stream."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(raw) + compressor.flush(zlib.Z_FULL_FLUSH)
