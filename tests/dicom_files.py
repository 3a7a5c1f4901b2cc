"""DICOM series for tests, made from arrays on the patient's axes, and changed at will."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset

ROOT = "1.2.826.0.1.3680043.8.498.7"
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
EXPLICIT = "1.2.840.10008.1.2.1"
_DIRECTIONS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Of each letter: the axis of (L, P, S), and the direction along it."""
Change = Callable[[Dataset, int], None]


def slices(
    stored: NDArray[Any],
    spacing_mm: tuple[float, float, float] = (2.5, 0.7, 0.8),
    codes: str = "LP",
    *,
    series: int = 1,
    study: int = 1,
    rescale: tuple[float, float] | None = (1, -1024),
    change: Change | None = None,
) -> list[Dataset]:
    """The files of an array on (z, x, y) that goes towards S, L, P, as datasets in order.

    codes: where a row runs and where a column. change: is given every file and its number.
    """
    sizes = np.array([stored.shape[1], stored.shape[2], stored.shape[0]])
    edges = np.array([spacing_mm[1], spacing_mm[2], spacing_mm[0]])
    (i, i_sign), (j, j_sign) = (_DIRECTIONS[code] for code in codes)
    row, column = np.zeros(3), np.zeros(3)
    row[i], column[j] = i_sign, j_sign
    normal = np.cross(row, column)
    k = int(np.abs(normal).argmax())
    signs = {i: i_sign, j: j_sign, k: int(normal[k])}
    turned = stored.transpose(1, 2, 0)[tuple(slice(None, None, signs[a]) for a in range(3))]
    turned = turned.transpose(k, j, i)  # (slice, row, column)
    start = np.array([0.0 if signs[a] > 0 else (sizes[a] - 1) * edges[a] for a in range(3)])
    found = []
    for n, pixels in enumerate(turned):
        data = _dataset(series, study, n)
        place = np.array([-100.0, -90.0, -500.0]) + start + normal * edges[k] * n
        data.ImagePositionPatient = [f"{value:.6f}".rstrip("0") for value in place]
        data.ImageOrientationPatient = [*row.tolist(), *column.tolist()]
        data.PixelSpacing = [float(edges[j]), float(edges[i])]
        if rescale is not None:
            data.RescaleSlope, data.RescaleIntercept = rescale
            data.RescaleType = "HU"
        set_pixels(data, pixels)
        if change is not None:
            change(data, n)
        found.append(data)
    return found


def _dataset(series: int, study: int, n: int) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = EXPLICIT
    data.SOPClassUID = CT
    data.SOPInstanceUID = f"{ROOT}.{study}.{series}.{n + 1}"
    data.StudyInstanceUID = f"{ROOT}.{study}"
    data.SeriesInstanceUID = uid(series, study)
    data.SeriesNumber, data.InstanceNumber = series, n + 1
    data.Modality = "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return data


def uid(series: int = 1, study: int = 1) -> str:
    return f"{ROOT}.{study}.{series}"


def set_pixels(data: Dataset, pixels: NDArray[Any]) -> None:
    """pixels: integers (row, column), or (frame, row, column)."""
    bits = pixels.dtype.itemsize * 8
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    data["PixelData"].VR = "OB" if bits == 8 else "OW"


def write(folder: Path, datasets: list[Dataset], name: str = "IM{:04d}") -> Path:
    """Write files that have no suffix, the last slice first."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, data in enumerate(reversed(datasets)):
        write_file(folder / name.format(n), data)
    return folder


def write_file(path: Path, data: Dataset) -> Path:
    data.save_as(path, enforce_file_format=True)
    return path


def enhanced(datasets: list[Dataset]) -> Dataset:
    """One multiframe file of the slices of a series."""
    first = datasets[0]
    data = _dataset(first.SeriesNumber, 1, 0)
    data.StudyInstanceUID, data.SeriesInstanceUID = first.StudyInstanceUID, first.SeriesInstanceUID
    data.SOPClassUID = ENHANCED_CT
    size = len(datasets), first.Rows, first.Columns
    frames = [np.frombuffer(each.PixelData, np.int16) for each in datasets]
    set_pixels(data, np.concatenate(frames).reshape(size))
    data.NumberOfFrames = len(datasets)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(first, "PixelSpacing")]
    shared.PlaneOrientationSequence = [_item(first, "ImageOrientationPatient")]
    shared.PixelValueTransformationSequence = [
        _item(first, "RescaleSlope", "RescaleIntercept", "RescaleType")
    ]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [Dataset() for _ in datasets]
    for group, each in zip(data.PerFrameFunctionalGroupsSequence, datasets, strict=True):
        group.PlanePositionSequence = [_item(each, "ImagePositionPatient")]
    return data


def _item(data: Dataset, *names: str) -> Dataset:
    item = Dataset()
    for name in names:
        item[name] = data[name]
    return item


def by_gdcm(path: Path, syntax: str) -> None:
    """Compress a file in place."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    changer = gdcm.ImageChangeTransferSyntax()
    changer.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    changer.SetInput(reader.GetImage())
    assert changer.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(changer.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax


def old_multiframe(stored: NDArray[Any]) -> Dataset:
    """Many frames with one place for all, as multiframe secondary captures have it."""
    data = slices(stored[:1])[0]
    set_pixels(data, stored)
    data.NumberOfFrames = len(stored)
    return data


def moved(by: Callable[[int], tuple[float, float, float]]) -> Change:
    """Put slice n elsewhere by so many millimetres (L, P, S), of a step of 2.5 mm."""

    def change(data: Dataset, n: int) -> None:
        place = np.array([-100, -90, 2.5 * n]) + by(n)
        data.ImagePositionPatient = [float(f"{value:.4f}") for value in place]

    return change


def tags(**values: object) -> Change:
    """Set tags; None deletes one."""

    def change(data: Dataset, n: int) -> None:
        for name, value in values.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)

    return change


def only(number: int, change: Change) -> Change:
    """Change one slice, numbered from 0 in the order of `slices`."""
    return lambda data, n: change(data, n) if n == number else None
