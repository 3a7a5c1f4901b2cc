"""The pixels of a DICOM file, decoded by pydicom and its plugins: stored values, nothing applied.

A header can promise anything, so sizes are compared with the file, and what a compressed frame says
of itself with the header, before a decoder is let at it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.readers.dicom.file import plain, reading
from ctclip_client.readers.dicom.header import Image, Pixels
from ctclip_client.readers.dicom.kinds import GREY
from ctclip_client.readers.remedies import COPY_AGAIN
from ctclip_client.readers.size import check_size
from ctclip_client.system.distributions import how_to_install_extra

_LARGEST_MATRIX = 4096
_LARGEST_RATIO = 5000
"""Uncompressed by compressed bytes: an image of nothing but air in JPEG-LS comes to about 2,000."""
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_EXTENDED_JPEG = "1.2.840.10008.1.2.4.51"
_J2K_SIZE = b"\xff\x4f\xff\x51"
_JPEG_START = b"\xff\xd8"
_JPEG_SCAN = 0xDA
_JPEG_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_ANOTHER_EXPORT = "Export the series again, uncompressed or losslessly compressed."


def check_pixels(image: Image) -> Pixels:
    """How a file's pixels are stored, where that can be read and trusted by the header alone.

    Raises: Unreadable.
    """
    pixels = image.pixels
    if pixels is None:
        raise Unreadable(f"{image.path}: no CT image: it has no pixel data.", COPY_AGAIN)
    if not image.frames:
        raise Unreadable(
            f"{image.path}: many frames with one place for all of them: nobody can tell where each "
            "lies.",
            "Export the series again, as single images or as enhanced CT.",
        )
    if pixels.photometric != GREY:
        raise Unreadable(
            f"{image.path}: PhotometricInterpretation is not {GREY}: a CT in Hounsfield units has "
            "this one.", "Take the scanner's own series instead of a copy made for showing.",
        )  # fmt: skip
    if not (1 <= pixels.rows <= _LARGEST_MATRIX and 1 <= pixels.columns <= _LARGEST_MATRIX):
        raise Unreadable(
            f"{image.path}: Rows × Columns is {pixels.rows} × {pixels.columns}, expected 1 to "
            f"{_LARGEST_MATRIX} each.", COPY_AGAIN,
        )  # fmt: skip
    if pixels.bits_allocated not in (8, 16, 32) or not (
        1 <= pixels.bits_stored <= pixels.bits_allocated
        and pixels.high_bit == pixels.bits_stored - 1
    ):
        raise Unreadable(
            f"{image.path}: BitsAllocated, BitsStored, HighBit are {pixels.bits_allocated}, "
            f"{pixels.bits_stored}, {pixels.high_bit}; expected 8, 16 or 32, at most as many, and "
            "one less than BitsStored.", _ANOTHER_EXPORT,
        )  # fmt: skip
    raw = pixels.rows * pixels.columns * pixels.bits_allocated // 8 * len(image.frames)
    got = image.size_bytes * _LARGEST_RATIO if pixels.nbytes is None else pixels.nbytes
    if raw > got or (pixels.nbytes or 0) > image.size_bytes * 1040:  # deflate's limit is 1032
        raise Unreadable(
            f"{image.path}: cut short: the header promises {raw:,} bytes of pixels, the file has "
            f"{image.size_bytes if pixels.nbytes is None else pixels.nbytes:,}.",
            COPY_AGAIN,
        )
    with reading(image.path):
        _check_decoder(image, pixels)
    return pixels


def dtype_of(images: Iterable[Image]) -> np.dtype[Any]:
    """The smallest integer type that holds the stored values of all.

    Raises: Unreadable, also where they are too many.
    """
    images = list(images)
    found = [check_pixels(image) for image in images]
    low = min(-(2 ** (p.bits_stored - 1)) if p.signed else 0 for p in found)
    high = max(2 ** (p.bits_stored - p.signed) - 1 for p in found)
    kinds = (np.int16, np.uint16, np.int32, np.uint32, np.int64)
    dtype = np.dtype(
        next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    )  # fmt: skip
    voxels = sum(p.rows * p.columns * len(i.frames) for p, i in zip(found, images, strict=True))
    check_size(str(images[0].path), voxels, voxels * dtype.itemsize)
    return dtype


def decoded(image: Image) -> Iterator[NDArray[Any]]:
    """The frames of a file in its order: stored integers (row, column) of the type `dtype_of`.

    Raises: Unreadable, OSError.
    """
    from pydicom.pixels import iter_pixels

    pixels = check_pixels(image)
    shape, dtype = (pixels.rows, pixels.columns), dtype_of([image])
    count = 0
    with image.path.open("rb") as raw:
        with reading(image.path):
            file = plain(raw, image.path, whole=True)
            if pixels.nbytes is None:
                _check_fragments(image, pixels, file)
            else:
                _check_length(image, pixels, file)
        file.seek(0)
        with reading(image.path, "damaged pixel data"):
            for frame in iter_pixels(
                file,
                raw=True,
                correct_unused_bits=False,  # which `_stored_bits` does
                decoding_plugin=_plugin(pixels.transfer_syntax),
                transfer_syntax_uid=pixels.transfer_syntax,
            ):
                whole = frame.shape == shape and frame.dtype.kind in "iu"
                if count == len(image.frames) or not whole:
                    raise Unreadable(
                        f"{image.path}: pixel data decode to {frame.shape}, expected {shape}.",
                        COPY_AGAIN,
                    )
                count += 1
                yield _stored_bits(frame, pixels).astype(dtype, copy=False)
    if count != len(image.frames):
        raise Unreadable(
            f"{image.path}: {count} frames of pixel data, expected {len(image.frames)}.", COPY_AGAIN
        )


def _stored_bits(frame: NDArray[Any], pixels: Pixels) -> NDArray[Any]:
    """Without what lies above BitsStored: overlays of old files, or the sign left undone.

    Padding that does not fit into these bits would become tissue: it gets their lowest value.
    """
    bits = frame.dtype.itemsize * 8
    unused = max(bits - pixels.bits_stored, 0)
    unsigned = frame.astype(f"=u{frame.dtype.itemsize}", copy=False)
    low = -(1 << (pixels.bits_stored - 1)) if pixels.signed else 0
    padding = pixels.padding
    if padding is not None and not low <= padding < low + (1 << pixels.bits_stored):
        unsigned = np.where(unsigned == padding % (1 << bits), low % (1 << bits), unsigned)
        unsigned = unsigned.astype(f"=u{frame.dtype.itemsize}", copy=False)
    if pixels.signed:
        return (unsigned.view(f"=i{frame.dtype.itemsize}") << unused) >> unused
    stored: NDArray[Any] = unsigned & unsigned.dtype.type((1 << min(pixels.bits_stored, bits)) - 1)
    return stored


def _plugin(syntax: str) -> str:
    """Whose decoder is used, always the same one; "" for what is not compressed."""
    from pydicom import uid

    if syntax in (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes):
        return "gdcm"
    return "pylibjpeg" if uid.UID(syntax).is_compressed else ""


def complains(image: Image) -> bool:
    """Whether its decoder prints nothing, unless the data is damaged."""
    return image.pixels is not None and _plugin(image.pixels.transfer_syntax) == "gdcm"


def _check_decoder(image: Image, pixels: Pixels) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    name = pixels.transfer_syntax
    try:
        name = UID(name).name
        decoder = get_decoder(pixels.transfer_syntax)
    except (NotImplementedError, ValueError):
        raise Unreadable(
            f"{image.path}: compressed by {name}, which no decoder reads.", _ANOTHER_EXPORT
        ) from None
    plugin = _plugin(pixels.transfer_syntax)
    if pixels.transfer_syntax == _EXTENDED_JPEG and pixels.bits_stored > 8:
        raise Unreadable(
            f"{image.path}: compressed by {name} with {pixels.bits_stored} bits, which no decoder "
            "here reads.",
            _ANOTHER_EXPORT,
        )
    if plugin and plugin not in decoder.available_plugins:
        raise Unreadable(
            f"{image.path}: compressed by {name}, whose decoder is not installed.",
            how_to_install_extra("dicom"),
        )
    if (pixels.nbytes is None) != UID(pixels.transfer_syntax).is_encapsulated:
        raise Unreadable(
            f"{image.path}: pixel data of {'no' if pixels.nbytes is None else 'a'} stated length, "
            f"which {name} does not have.",
            _ANOTHER_EXPORT,
        )


def _check_length(image: Image, pixels: Pixels, file: BinaryIO) -> None:
    """Uncompressed pixels lie in the file, and are not fewer than the frames need."""
    length = file.seek(0, 2)
    if pixels.offset + (pixels.nbytes or 0) > length:
        raise Unreadable(
            f"{image.path}: cut short: {length - pixels.offset:,} bytes of pixels, expected "
            f"{pixels.nbytes:,}.", COPY_AGAIN,
        )  # fmt: skip


def _check_fragments(image: Image, pixels: Pixels, file: BinaryIO) -> None:
    """Compressed pixels lie in the file to their end, and are as large as the header says.

    A decoder makes room for what the compressed data says of itself.
    """
    offset, length, first = pixels.offset, file.seek(0, 2), True
    while offset + 8 <= length:
        file.seek(offset)
        group, element, nbytes = struct.unpack("<HHI", file.read(8))
        offset += 8
        if (group, element) == _END:
            return
        if (group, element) != _ITEM or offset + nbytes > length:
            break
        declared = None if first else _declared(file.read(min(nbytes, 1 << 16)))
        if declared and declared != (pixels.rows, pixels.columns, 1):
            raise Unreadable(
                f"{image.path}: compressed pixel data of {declared[0]} × {declared[1]} voxels and "
                f"{declared[2]} colours, expected {pixels.rows} × {pixels.columns} and 1.",
                COPY_AGAIN,
            )
        offset += nbytes
        first = False  # the first item is a table of offsets
    if offset != length:
        raise Unreadable(f"{image.path}: cut short: compressed pixel data has no end.", COPY_AGAIN)


def _declared(head: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) of JPEG 2000, JPEG and JPEG-LS data; None for what has none.

    Raises: ValueError where the markers of a JPEG do not lead to its pixels.
    """
    start = head.find(_J2K_SIZE, 0, 512)
    if start >= 0 and len(head) >= start + 42:
        right, lower, left, top = struct.unpack(">4I", head[start + 8 : start + 24])
        (components,) = struct.unpack(">H", head[start + 40 : start + 42])
        return lower - top, right - left, components
    if not head.startswith(_JPEG_START):
        return None
    found, at = None, 2
    while at + 10 <= len(head):
        if head[at : at + 2] == b"\xff\xff":  # bytes to fill up may stand before a marker
            at += 1
            continue
        mark, marker, nbytes = struct.unpack(">BBH", head[at : at + 4])
        if marker in _JPEG_FRAMES:
            rows, columns, components = struct.unpack(">HHB", head[at + 5 : at + 10])
            found = rows, columns, components
        if mark != 0xFF or nbytes < 2 or marker < 0xC0:
            break
        if marker == _JPEG_SCAN and found is not None and head[at + 4] == 1:
            return found
        at += 2 + nbytes
    raise ValueError("markers")
