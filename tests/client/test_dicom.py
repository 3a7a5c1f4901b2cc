"""DICOM series become the same volumes as NIfTI files do, however they were written."""

from __future__ import annotations

import base64
import hashlib
import logging
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from ctclip_client import Unreadable, Volume, read_volume

from .. import dicom_files
from ..dicom_files import (
    by_gdcm,
    enhanced,
    moved,
    only,
    set_pixels,
    slices,
    tags,
    uid,
    write,
    write_file,
)
from ..nifti_files import chest, save

SHAPE = (22, 6, 7)
STORED = chest(SHAPE) + np.int16(1024)
SIGNED = chest((22, 40, 44))
THIN = chest((24, 6, 20)) + np.int16(1024)
PLANES = [
    f"{row}{column}"
    for axis in ("LR", "PA", "SI") for row in axis
    for other in {"LR", "PA", "SI"} - {axis} for column in other
]  # fmt: skip


def same(volume: Volume, stored: NDArray[np.int16] = STORED) -> Volume:
    np.testing.assert_array_equal(volume.voxels, stored)
    assert (volume.spacing_mm, volume.rescale) == ((2.5, 0.7, 0.8), (1.0, -1024.0))
    return volume


def place_of_first(volume: Volume) -> NDArray[np.float64]:
    """Where (R, A, S) an image that is laid on the scan has the voxel (0, 0, 0)."""
    grid = volume.source.grid
    assert grid is not None
    assert grid.sform is not None
    index = np.array([0, 0, 0, 1])
    for axis, backwards in zip(grid.axes, grid.flips, strict=True):
        index[axis] = grid.shape[axis] - 1 if backwards else 0
    place: NDArray[np.float64] = (np.array(grid.sform.affine) @ index)[:3]
    return place


def refused(folder: Path, words: str, series: str | None = None) -> Unreadable:
    with pytest.raises(Unreadable, match=words) as caught:
        read_volume(folder, series=series)
    assert caught.value.remedy
    return caught.value


def test_every_plane_and_direction(tmp_path: Path) -> None:
    """Files lie in any order, without suffix, and name no slice number that could help."""
    stored = chest((5, 6, 7)) + np.int16(1024)
    for codes in sorted(PLANES):
        folder = write(tmp_path / codes, slices(stored, codes=codes))
        volume = same(read_volume(folder, series=uid()), stored)
        assert volume.source.orientation[:2] == codes
        np.testing.assert_allclose(place_of_first(volume), (100, 90, -500), atol=1e-3)


def test_the_same_volume_as_by_nifti(tmp_path: Path) -> None:
    nifti = read_volume(save(tmp_path / "scan.nii", chest(SHAPE), codes="LAS"))
    volume = read_volume(write(tmp_path / "series", slices(STORED, codes="LP")))
    slope, intercept = volume.rescale
    np.testing.assert_array_equal(volume.voxels * slope + intercept, nifti.voxels)
    assert volume.spacing_mm == nifti.spacing_mm
    assert volume.source.grid is not None
    affine = np.array(volume.source.grid.sform.affine)  # type: ignore[union-attr]
    # voxel (0, 0, 0) of the DICOM lies at (-100, -90, -500) towards L, P, S.
    np.testing.assert_allclose(
        affine, [[-0.7, 0, 0, 100], [0, -0.8, 0, 90], [0, 0, 2.5, -500], [0, 0, 0, 1]]
    )
    assert nibabel.aff2axcodes(affine) == ("L", "P", "S")


@pytest.mark.slow
def test_the_sample_ct_as_a_series(chest_ct: Path, tmp_path: Path) -> None:
    nifti = read_volume(chest_ct)
    stored = (nifti.voxels * nifti.rescale[0] + nifti.rescale[1] + 1024).astype(np.int16)
    folder = write(tmp_path / "series", slices(stored, nifti.spacing_mm, "LP"))
    for change in ("as written", "compressed"):
        if change == "compressed":
            for path in folder.iterdir():
                by_gdcm(path, "1.2.840.10008.1.2.4.70")
        volume = read_volume(folder)
        np.testing.assert_array_equal(
            volume.voxels * volume.rescale[0] + volume.rescale[1],
            nifti.voxels * nifti.rescale[0] + nifti.rescale[1],
        )
        assert volume.spacing_mm == nifti.spacing_mm


def test_a_multiframe_file_alone_and_in_a_folder(tmp_path: Path) -> None:
    data = enhanced(slices(STORED)[::-1])
    path = write_file(tmp_path / "ct", data)
    same(read_volume(path))
    same(read_volume(tmp_path))


def recode(path: Path, syntax: str) -> None:
    data = pydicom.dcmread(path)
    if syntax in ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"):
        data.compress(syntax)
        data.save_as(path)
    elif ".1.2.4." in syntax:
        by_gdcm(path, syntax)
    else:
        plain = Dataset()
        plain.update(data)
        plain.file_meta = data.file_meta
        plain.file_meta.TransferSyntaxUID = syntax
        if syntax == "1.2.840.10008.1.2.2":
            plain.PixelData = np.frombuffer(plain.PixelData, "<i2").astype(">i2").tobytes()
        plain.save_as(path, enforce_file_format=True)


SYNTAXES = {
    "implicit": "1.2.840.10008.1.2", "big endian": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99", "RLE": "1.2.840.10008.1.2.5",
    "JPEG lossless": "1.2.840.10008.1.2.4.57", "JPEG lossless SV1": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80", "JPEG 2000": "1.2.840.10008.1.2.4.90",
}  # fmt: skip


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series of which every slice is compressed in another way."""
    folder = write(tmp_path_factory.mktemp("compressed"), slices(SIGNED, rescale=(1, 0)))
    for n, path in enumerate(sorted(folder.iterdir())):
        recode(path, list(SYNTAXES.values())[n % len(SYNTAXES)])
    return folder


def test_every_compression(compressed: Path) -> None:
    found = {
        pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
        for path in compressed.iterdir()
    }
    assert found == set(SYNTAXES.values())
    volume = read_volume(compressed)
    np.testing.assert_array_equal(volume.voxels, SIGNED)
    assert volume.rescale == (1.0, 0.0)


# From OpenJPH, which has an encoder; what reads it here has none.
HTJ2K = (
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB"
    "/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAHcAAf+TwAAmLfwCh3QA"
    "AMAAEsAAEoD+AId0ACICh3QAwAASwAATgN4AAnQAjjv+AINUAMAAE8AAFUDu7qCnwnUAwIGBgcAxgey2AMAAKuAAFogk"
    "SZLnwKenp0J4AMZGo9FoNBr9iEB79iEB7LoA/9k="
)


def test_htj2k(tmp_path: Path) -> None:
    pixels = np.add.outer(np.arange(16) * 100, np.arange(16) * 7).astype(np.int16) - np.int16(1024)

    def change(data: Dataset, n: int) -> None:
        data.PixelData = encapsulate([base64.b64decode(HTJ2K)])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{201 + n}"

    stored = np.broadcast_to(pixels.T, (3, 16, 16))  # (z, x, y)
    folder = write(tmp_path, slices(stored, rescale=(1, 0), change=change))
    np.testing.assert_array_equal(read_volume(folder, series=uid()).voxels, stored)


def test_a_compressed_multiframe_file(tmp_path: Path) -> None:
    data = enhanced(slices(STORED))
    data.compress(RLELossless)
    same(read_volume(write_file(tmp_path / "ct", data)))


@pytest.mark.parametrize("signed", [True, False])
def test_bits_that_are_not_stored_are_no_values(signed: bool, tmp_path: Path) -> None:
    """Old files keep overlays there; others leave the sign undone, or padding without bits."""
    hu = chest(SHAPE)
    low = hu if signed else hu + np.int16(1024)
    low[:, 0, 0] = low.min() if signed else 0

    def change(data: Dataset, n: int) -> None:
        pixels = np.frombuffer(data.PixelData, np.uint16).reshape(data.Rows, data.Columns) & 0x0FFF
        pixels |= np.uint16(0x5000)
        if not signed:
            pixels[0, 0] = data.PixelPaddingValue = 63536
            data["PixelPaddingValue"].VR = "US"
        set_pixels(data, pixels)
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, int(signed)

    rescale = (1, 0) if signed else (1, -1024)
    volume = read_volume(write(tmp_path, slices(low, rescale=rescale, change=change)))
    np.testing.assert_array_equal(volume.voxels, low)


def test_the_digest_is_of_the_files_in_order(tmp_path: Path) -> None:
    folder = write(tmp_path, slices(STORED))
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir(), reverse=True):  # written from the last to the first
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    assert read_volume(folder).source.sha256 == digest.hexdigest()


def test_a_step_is_the_median_and_the_mean_where_it_was_rounded(tmp_path: Path) -> None:
    def positions(values: NDArray[np.float64]) -> Callable[[Dataset, int], None]:
        def change(data: Dataset, n: int) -> None:
            data.ImagePositionPatient = [0, 0, f"{values[n]:.6g}"]

        return change

    n = np.arange(SHAPE[0])
    for values, step in (
        (n * 0.625, 0.625),
        (np.round(n * 0.625, 1), 0.623810),  # 13.1 mm, of 0.6 and 0.7
        (n * 1.2 + 1e-3 * (n % 2), 1.2),
    ):
        folder = tmp_path / f"{step}"
        write(folder, slices(STORED, change=positions(values)))
        assert read_volume(folder).spacing_mm[0] == pytest.approx(step, abs=2e-3)


def _syntax(uid: str) -> Callable[[Dataset, int], None]:
    def change(data: Dataset, n: int) -> None:
        data.PixelData = encapsulate([data.PixelData])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = uid

    return change


REFUSED: dict[str, tuple[Callable[[Dataset, int], None], str]] = {
    "uneven": (moved(lambda n: (0, 0, 0.9 * (n > 9))), "not evenly spaced: 2.5 to 3.4 mm"),
    "two steps": (moved(lambda n: (0, 0, 2.5 * (n // 2))), "not evenly spaced: 2.5 to 5 mm"),
    "missing": (moved(lambda n: (0, 0, 5.0 * (n > 9))), "slices are missing: 2 at 1 places"),
    "a thicker end": (moved(lambda n: (0, 0, n * 0.5 * (n > 15))), "not evenly spaced"),
    "interleaved": (lambda d, n: setattr(d, "AcquisitionNumber", 1 + n % 2), "2 acquisitions are"),
    "interleaved, by number": (
        lambda d, n: setattr(d, "InstanceNumber", 1 + n // 2), "2 acquisitions .*InstanceNumber"
    ),
    "interleaved, one backwards": (
        lambda d, n: setattr(d, "InstanceNumber", 1 + n // 2 if n % 2 else 13 - n // 2),
        "2 acquisitions .*InstanceNumber",
    ),
    "three interleaved": (
        lambda d, n: setattr(d, "InstanceNumber", 1 + n // 3), "3 acquisitions .*InstanceNumber"
    ),
    "gantry tilt": (moved(lambda n: (0, 2.5 * n * 0.2, 0)), "gantry was tilted: .* 11.3°"),
    "a slice that is off": (moved(lambda n: (2.0 * (n == 7), 0, 0)), "no straight line"),
    "another size": (only(5, lambda d, n: set_pixels(d, np.zeros((8, 8), np.int16))), "Rows and C"),
    "another spacing": (only(5, tags(PixelSpacing=[0.7, 0.9])), "PixelSpacing differs"),
    "another direction": (
        only(5, tags(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])), "OrientationPatient differs"
    ),
    "tilted slices": (
        tags(ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6]), "drift sideways|tilted"
    ),
    "no position": (only(3, tags(ImagePositionPatient=None)), "ImagePositionPatient missing"),
    "no orientation": (tags(ImageOrientationPatient=None), "ImageOrientationPatient missing"),
    "no spacing": (tags(PixelSpacing=None), "PixelSpacing missing"),
    "a spacing of 0": (tags(PixelSpacing=[0, 0.7]), "PixelSpacing is not above 0"),
    "no directions": (tags(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "two directions"),
    "another slope": (only(4, tags(RescaleSlope=2)), "RescaleSlope and RescaleIntercept differ"),
    "no slope": (tags(RescaleSlope=None), "RescaleSlope is missing"),
    "a table": (tags(ModalityLUTSequence=[]), "ModalityLUTSequence"),
    "another unit": (tags(RescaleType="Z_EFF"), "RescaleType is not HU"),
    "inverted": (tags(PhotometricInterpretation="MONOCHROME1"), "PhotometricInterpretation is not"),
    "lossy JPEG of 12 bits": (_syntax("1.2.840.10008.1.2.4.51"), "with 16 bits, which no decoder"),
    "video": (_syntax("1.2.840.10008.1.2.4.102"), "MPEG-4.* which no decoder"),
    "a position without end": (only(3, tags(ImagePositionPatient=[0, 0, 1e30])), "ImagePosition"),
    "MR": (tags(Modality="MR"), "no CT"),
    "colour": (tags(SamplesPerPixel=3), "colour image"),
    "shifted bits": (tags(BitsStored=12, HighBit=15), "BitsAllocated, BitsStored, HighBit"),
    "no bits": (only(2, tags(BitsStored=None)), "without a tag that describes it"),
    "no pixels": (only(2, tags(PixelData=None)), "without pixel data"),
    "few pixels": (only(2, lambda d, n: setattr(d, "PixelData", d.PixelData[:-2])), "cut short"),
    "no unit": (tags(RescaleSlope=None, RescaleIntercept=None), "cannot be Hounsfield|clipped"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    change, words = REFUSED[name]
    refused(write(tmp_path, slices(STORED, change=change)), words)


@pytest.mark.parametrize("slices_each", [1, 5])
def test_acquisitions_one_after_the_other(slices_each: int, tmp_path: Path) -> None:
    def change(data: Dataset, n: int) -> None:
        if n != 7:
            data.AcquisitionNumber = 99 - n // slices_each

    same(read_volume(write(tmp_path, slices(STORED, change=change))))


@pytest.mark.parametrize(
    "number",
    [
        lambda n: 1,
        lambda n: None if n == 7 else 1 + n // 2,  # which tells too little
        lambda n: 22 - n,
        lambda n: 1 + n % 11,
        lambda n: 1 + n % 15,
        lambda n: 1 + n % 2,
        lambda n: 1 + n % 3,
        lambda n: 5 - n % 5,
        lambda n: 11 - n if n < 11 else n - 10,
        lambda n: 1 + n - (n > 9),
        lambda n: (n * 7919) % 22,
    ],
)
def test_numbers_that_repeat_otherwise(number: Callable[[int], int | None], tmp_path: Path) -> None:
    """Acquisitions one after the other that each begin at 1, and numbers that are wrong."""

    def change(data: Dataset, n: int) -> None:
        data.InstanceNumber = number(n)

    same(read_volume(write(tmp_path, slices(STORED, change=change))))


def test_given_values_replace_damaged_ones(tmp_path: Path) -> None:
    folder = write(tmp_path, slices(STORED, change=tags(RescaleSlope=None)))
    same(read_volume(folder, rescale=(1, -1024)))


def test_several_threads_may_read(tmp_path: Path) -> None:
    """Warnings are of the whole process: they are as they were when the last one is done."""
    folder = write(tmp_path, slices(STORED))
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        for volume in pool.map(read_volume, [folder] * 8):
            same(volume)
    assert list(warnings.filters) == before
    assert logging.getLogger("pydicom").propagate


def test_images_of_one_place(tmp_path: Path) -> None:
    """Equal ones are left out and said; others are two scans in one series."""
    folder = write(tmp_path / "a", slices(STORED))
    (folder / "again").mkdir()
    for path in sorted(folder.glob("IM*"))[:3]:
        shutil.copy(path, folder / "again")
    assert "3 images that are equal" in same(read_volume(folder)).source.notes[0]
    other = write(tmp_path / "b", slices(STORED))
    write(other / "later", slices(STORED + np.int16(1)))
    refused(other, "show the same slice and differ: 22 of 44")


def test_single_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "a b", slices(STORED))
    error = refused(folder / "IM0003", "one image of a scan")
    assert f"'{folder}'" in error.remedy
    write_file(tmp_path / "old", dicom_files.old_multiframe(STORED))
    refused(tmp_path / "old", "many frames with one place")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, slices(STORED))
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    error = refused(folder, "pydicom, which is not installed")
    assert './client[dicom]"' in error.remedy


# What is chosen among several.
