"""What the header of a DICOM file says of its images, read once and without the pixels.

Nothing else of a header is kept: it names the patient.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ctclip_client.errors import Unreadable
from ctclip_client.readers.dicom.file import EXPLICIT, plain, reading
from ctclip_client.readers.format import hidden
from ctclip_client.readers.remedies import COPY_AGAIN

T = TypeVar("T", bound=Hashable)
_LOSSY = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81))
"""Baseline and extended JPEG, near-lossless JPEG-LS: also where the header does not say so."""
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
"""CT Image Storage; those of enhanced CT begin with it."""
_TAGS = (
    "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "SeriesDescription", "Modality", "ImageType", "ConvolutionKernel",
    "VolumeBasedCalculationTechnique", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "LossyImageCompression",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
    "AcquisitionNumber", "InstanceNumber",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
}
"""Of a multiframe image: in which functional group a tag lies."""
_UID = re.compile(r"[0-9.]{1,64}")
_TOKEN = re.compile(r"[0-9A-Za-z_-]{1,64}")
"""What some make of a UID, so that nobody is named: without dots, as a damaged one would have."""
_LARGEST = 1e6
_META_START = 144
"""Behind the preamble and the length of the file meta information."""
_PIXEL_DATA = (0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice's place and scale. None: missing, or no number.

    position: (x, y, z) of the first voxel's centre, towards L, P, S in millimetres.
    orientation: direction of a row, then of a column, six cosines.
    pixel_spacing_mm: (between rows, between columns).
    rescale: (slope, intercept), as stated. rescale_type: DICOM's name of its unit.
    acquisition: its number. instance: InstanceNumber, of all frames of a file the same.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    rescale: tuple[float | None, float | None]
    rescale_type: str
    acquisition: float | None
    instance: float | None


@dataclass(frozen=True, slots=True)
class Pixels:
    """How the pixels of a file are stored.

    offset: of the pixel data's element in the plain file (see `plain`). nbytes: of its value; None
    where it is compressed. padding: what is stored where the scanner has measured nothing.
    """

    transfer_syntax: str
    offset: int
    nbytes: int | None
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    padding: int | None
    samples: int
    photometric: str
    lossy: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A DICOM file that belongs to a series, with one frame or many.

    study: StudyInstanceUID, or the series' where there is none. description, kernel, modality: for
    the eyes of a person at a terminal only.
    """

    path: Path
    size_bytes: int
    mtime_ns: int
    sop_class: str
    study: str
    series: str
    number: int | None
    description: str = field(repr=False)
    modality: str = field(repr=False)
    kernel: str = field(repr=False)
    image_type: tuple[str, ...]
    modality_lut: bool
    pixels: Pixels | None
    frames: tuple[Frame, ...]


def read_image(path: Path) -> Image | None:
    """Read a file's header; None for what belongs to no series: a DICOMDIR, say, or a palette.

    Raises: Unreadable, OSError.
    """
    import pydicom

    state = path.stat()
    with reading(path), path.open("rb") as raw:
        file = plain(raw, path, whole=False)
        data = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_tags())
        pixels = _pixels(data, file, raw is not file)
        series = _identifier(data, "SeriesInstanceUID")
        sop_class = _uid(data, "SOPClassUID")
        # Of one that is cut short, the dataset's own class may be half of what it was.
        media_class = str(data.file_meta.get("MediaStorageSOPClassUID", ""))
        is_ct = any(f"{uid}.".startswith(f"{CT_CLASS}.") for uid in (sop_class, media_class))
        if not series:
            meta_bytes = _integer(data.file_meta, "FileMetaInformationGroupLength") or 0
            is_whole = state.st_size >= _META_START + meta_bytes
            if (sop_class or media_class) and is_whole and not is_ct:
                return None
            if data.get("SeriesInstanceUID"):
                raise Unreadable(
                    f"{path}: SeriesInstanceUID is no valid UID, expected at most 64 digits and "
                    "dots (or letters, digits, _ and -).",
                    "Where the scan was made anonymous, do so again with a tool that writes UIDs.",
                )
            raise Unreadable(
                f"{path}: a DICOM file without SeriesInstanceUID, or cut short before it.",
                COPY_AGAIN,
            )
        if is_ct and pixels is None:  # and its UIDs may be half of what they were
            raise Unreadable(
                f"{path}: a CT image without pixel data, or without a tag that describes it (Rows, "
                "Columns, BitsAllocated, BitsStored, HighBit, PixelRepresentation), or cut short "
                "before it.",
                COPY_AGAIN,
            )
        return Image(
            path=path,
            size_bytes=state.st_size,
            mtime_ns=state.st_mtime_ns,
            sop_class=_shared(sop_class),
            study=_shared(_identifier(data, "StudyInstanceUID") or series),
            series=_shared(series),
            number=_integer(data, "SeriesNumber"),
            description=_shared(str(data.get("SeriesDescription") or "")),
            modality=_shared(str(data.get("Modality") or "")),
            kernel=_shared(" ".join(_words(data, "ConvolutionKernel"))),
            image_type=_shared(
                (*_words(data, "ImageType"), *_words(data, "VolumeBasedCalculationTechnique"))
            ),
            modality_lut="ModalityLUTSequence" in data,
            pixels=pixels,
            frames=tuple(_frames(data)),
        )  # fmt: skip


def _pixels(data: Any, file: BinaryIO, inflated: bool) -> Pixels | None:
    """None where there are no (integer) pixels, or nothing says how large they are."""
    implicit, little = data.original_encoding
    syntax = _uid(data.file_meta, "TransferSyntaxUID")
    if inflated or not syntax:
        syntax = EXPLICIT if not implicit else "1.2.840.10008.1.2"
        syntax = syntax if little else "1.2.840.10008.1.2.2"
    offset = file.tell()
    order = "<" if little else ">"
    head = file.read(12)
    if len(head) < 12 or struct.unpack(f"{order}HH", head[:4]) != _PIXEL_DATA:
        return None
    (nbytes,) = struct.unpack(f"{order}I", head[4:8] if implicit else head[8:12])
    names = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    numbers = [_integer(data, name) for name in names]
    if any(number is None for number in numbers):
        return None
    rows, columns, allocated, stored, high, representation = (int(n or 0) for n in numbers)
    return Pixels(
        transfer_syntax=_shared(syntax),
        offset=offset + (8 if implicit else 12),
        nbytes=None if nbytes == _UNDEFINED else nbytes,
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=bool(representation),
        padding=_integer(data, "PixelPaddingValue"),
        samples=_integer(data, "SamplesPerPixel") or 1,
        photometric=_shared(str(data.get("PhotometricInterpretation") or "")),
        lossy=str(data.get("LossyImageCompression") or "") == "01" or syntax in _LOSSY,
    )


def _frames(data: Any) -> Iterator[Frame]:
    """Those that have a place of their own: none of an old multiframe image, which has one for all
    of its frames."""
    shared = list(data.get("SharedFunctionalGroupsSequence") or [])[:1]
    per_frame = data.get("PerFrameFunctionalGroupsSequence")
    if per_frame is None:
        if (_integer(data, "NumberOfFrames") or 1) == 1:
            yield _frame([data])
        return
    common = _groups(shared)
    for item in per_frame:
        yield _frame([*_groups([item]), *common, data])


def _groups(items: list[Any]) -> list[Any]:
    found = []
    for item in items:
        for sequence in dict.fromkeys(_MACROS.values()):
            found += list(item.get(sequence) or [])[:1]
    return found


def _frame(places: list[Any]) -> Frame:
    """places: datasets, the first one that has a tag counts."""

    def numbers(name: str, count: int) -> tuple[float, ...] | None:
        return next((_floats(place, name, count) for place in places if name in place), None)

    slope, intercept = numbers("RescaleSlope", 1), numbers("RescaleIntercept", 1)
    acquisition = numbers("FrameAcquisitionNumber", 1) or numbers("AcquisitionNumber", 1)
    instance = numbers("InstanceNumber", 1)
    kind = next((place.get("RescaleType") for place in places if "RescaleType" in place), None)
    return Frame(
        position=numbers("ImagePositionPatient", 3),
        orientation=_shared(numbers("ImageOrientationPatient", 6)),
        pixel_spacing_mm=_shared(numbers("PixelSpacing", 2)),
        rescale=_shared((slope[0] if slope else None, intercept[0] if intercept else None)),
        rescale_type=_shared(str(kind or "").strip().upper()),
        acquisition=acquisition[0] if acquisition else None,
        instance=instance[0] if instance else None,
    )


@lru_cache
def _tags() -> list[Any]:
    """Made once: by their names, pydicom would make them for each file."""
    from pydicom.tag import Tag

    return [Tag(name) for name in _TAGS]


@lru_cache(maxsize=256)
def _shared(value: T) -> T:
    """Keep once what all slices of a series have alike: a tree of scans is read before it is
    scored, and has hundreds of thousands of files."""
    return value


def _floats(data: Any, name: str, count: int) -> tuple[float, ...] | None:
    try:
        value = data[name].value
        found = tuple(float(v) for v in ([value] if count == 1 else value))
    except (ValueError, TypeError, KeyError, ArithmeticError):
        return None
    # False for NaN, too. More is no length in millimetres, and no scale.
    return found if len(found) == count and all(abs(v) < _LARGEST for v in found) else None


def _integer(data: Any, name: str) -> int | None:
    try:
        return int(data[name].value)
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def _uid(data: Any, name: str) -> str:
    value = str(data.get(name) or "")
    return value if _UID.fullmatch(value) else ""


def _identifier(data: Any, name: str) -> str:
    """A UID, or what stands for it where something else was put in its place."""
    value = str(data.get(name) or "")
    return _uid(data, name) or (hidden(value) if _TOKEN.fullmatch(value) else "")


def _words(data: Any, name: str) -> tuple[str, ...]:
    value = data.get(name) or ""
    return tuple(str(v).strip().upper() for v in ([value] if isinstance(value, str) else value))
