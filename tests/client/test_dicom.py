"""DICOM series become the same volumes as NIfTI files do, however they were written."""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from ctclip_client import InvalidInput, Unreadable, Volume, read_volume
from ctclip_client.cli.program import main
from ctclip_client.readers.dicom import look
from ctclip_client.readers.find import Scan, find_scans

from .. import dicom_files
from ..dicom_files import by_gdcm, enhanced, set_pixels, slices, uid, write, write_file
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


def _moved(by: Callable[[int], tuple[float, float, float]]) -> Callable[[Dataset, int], None]:
    def change(data: Dataset, n: int) -> None:
        place = np.array([-100, -90, 2.5 * n]) + by(n)
        data.ImagePositionPatient = [float(f"{value:.4f}") for value in place]

    return change


def _set(**tags: object) -> Callable[[Dataset, int], None]:
    def change(data: Dataset, n: int) -> None:
        for name, value in tags.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)

    return change


def _syntax(uid: str) -> Callable[[Dataset, int], None]:
    def change(data: Dataset, n: int) -> None:
        data.PixelData = encapsulate([data.PixelData])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = uid

    return change


def _on(number: int, change: Callable[[Dataset, int], None]) -> Callable[[Dataset, int], None]:
    return lambda data, n: change(data, n) if n == number else None


REFUSED: dict[str, tuple[Callable[[Dataset, int], None], str]] = {
    "uneven": (_moved(lambda n: (0, 0, 0.9 * (n > 9))), "not evenly spaced: 2.5 to 3.4 mm"),
    "two steps": (_moved(lambda n: (0, 0, 2.5 * (n // 2))), "not evenly spaced: 2.5 to 5 mm"),
    "missing": (_moved(lambda n: (0, 0, 5.0 * (n > 9))), "slices are missing: 2 at 1 places"),
    "a thicker end": (_moved(lambda n: (0, 0, n * 0.5 * (n > 15))), "not evenly spaced"),
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
    "gantry tilt": (_moved(lambda n: (0, 2.5 * n * 0.2, 0)), "gantry was tilted: .* 11.3°"),
    "a slice that is off": (_moved(lambda n: (2.0 * (n == 7), 0, 0)), "no straight line"),
    "another size": (_on(5, lambda d, n: set_pixels(d, np.zeros((8, 8), np.int16))), "Rows and Co"),
    "another spacing": (_on(5, _set(PixelSpacing=[0.7, 0.9])), "PixelSpacing differs"),
    "another direction": (
        _on(5, _set(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])), "ImageOrientationPatient differs"
    ),
    "tilted slices": (
        _set(ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6]), "drift sideways|tilted"
    ),
    "no position": (_on(3, _set(ImagePositionPatient=None)), "ImagePositionPatient missing"),
    "no orientation": (_set(ImageOrientationPatient=None), "ImageOrientationPatient missing"),
    "no spacing": (_set(PixelSpacing=None), "PixelSpacing missing"),
    "a spacing of 0": (_set(PixelSpacing=[0, 0.7]), "PixelSpacing is not above 0"),
    "no directions": (_set(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "two directions"),
    "another slope": (_on(4, _set(RescaleSlope=2)), "RescaleSlope and RescaleIntercept differ"),
    "no slope": (_set(RescaleSlope=None), "RescaleSlope is missing"),
    "a table": (_set(ModalityLUTSequence=[]), "ModalityLUTSequence"),
    "another unit": (_set(RescaleType="Z_EFF"), "RescaleType is not HU"),
    "inverted": (_set(PhotometricInterpretation="MONOCHROME1"), "PhotometricInterpretation is not"),
    "lossy JPEG of 12 bits": (_syntax("1.2.840.10008.1.2.4.51"), "with 16 bits, which no decoder"),
    "video": (_syntax("1.2.840.10008.1.2.4.102"), "MPEG-4.* which no decoder"),
    "a position without end": (_on(3, _set(ImagePositionPatient=[0, 0, 1e30])), "ImagePosition"),
    "MR": (_set(Modality="MR"), "no CT"),
    "colour": (_set(SamplesPerPixel=3), "colour image"),
    "shifted bits": (_set(BitsStored=12, HighBit=15), "BitsAllocated, BitsStored, HighBit"),
    "no bits": (_on(2, _set(BitsStored=None)), "without a tag that describes it"),
    "no pixels": (_on(2, _set(PixelData=None)), "without pixel data"),
    "few pixels": (_on(2, lambda d, n: setattr(d, "PixelData", d.PixelData[:-2])), "cut short"),
    "no unit": (_set(RescaleSlope=None, RescaleIntercept=None), "cannot be Hounsfield|clipped"),
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


def test_given_values_replace_damaged_ones(tmp_path: Path) -> None:
    folder = write(tmp_path, slices(STORED, change=_set(RescaleSlope=None)))
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


def localizer(data: Dataset, n: int) -> None:
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def projection(data: Dataset, n: int) -> None:
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]


def capture(data: Dataset, n: int) -> None:
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


def report(data: Dataset, n: int) -> None:
    data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.88.67", "SR"
    del data.PixelData


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only. What a PACS writes: everything of a study, below each other, and a DICOMDIR."""
    root = tmp_path_factory.mktemp("study") / "disc"
    thick, thin = STORED, THIN
    for number, (stored, step_mm, change) in enumerate(
        [
            (STORED[:2], 2.5, localizer), (thick, 5.0, None), (thin, 1.25, None),
            (thin, 1.0, projection), (thin[:19], 0.5, None), (thin[:2], 1.0, capture),
            (thin[:1], 1.0, report), (thin, 0.6, _moved(lambda n: (0, 0, n * n))),
        ], 1,
    ):  # fmt: skip
        data = slices(stored, (step_mm, 0.7, 0.8), series=number, change=change)
        write(root / "IMAGES" / f"S{number}", data)
    data = slices(thin, (1.0, 0.7, 0.8), "LI", series=9)
    write(root / "IMAGES" / "S9", data)
    shutil.copy(Path(pydicom.__file__).parent / "data/test_files/dicomdirtests/DICOMDIR", root)
    (root / "AUTORUN.INF").write_text("[autorun]")
    return root


def test_the_thinnest_axial_series_is_taken(disc: Path) -> None:
    for path in (disc, disc / "DICOMDIR"):
        volume = read_volume(path)
        assert (volume.source.series, volume.voxels.shape[0]) == (uid(3), 24)
        (note,) = volume.source.notes
        assert note.startswith(f"Series {uid(3)} was taken of 3 (axial first, then the smallest")
    found = {series.uid: series.left_out for series in look(disc).series}
    expected = {
        uid(3): "", uid(2): "", uid(9): "", uid(1): "localizer", uid(4): "intensity projection",
        uid(5): "fewer than 20", uid(6): "secondary capture", uid(7): "structured report",
        uid(8): "not evenly spaced",
    }  # fmt: skip
    assert list(found)[:3] == [uid(3), uid(2), uid(9)]
    assert found.keys() == expected.keys()
    for each, words in expected.items():
        assert bool(words) == bool(found[each])
        assert words in found[each]
    (scan,) = find_scans(disc)
    assert scan.series == uid(3)
    assert scan.path == disc / "IMAGES"
    assert read_volume(scan.path, series=scan.series).source.notes == (note,)
    files = list((scan.path / "S3").iterdir())
    assert scan.size_bytes == sum(path.stat().st_size for path in files)
    assert scan.mtime_ns == max(path.stat().st_mtime_ns for path in files)


def test_any_series_can_be_asked_for(disc: Path) -> None:
    for number, count in ((2, 22), (4, 24)):
        volume = read_volume(disc, series=uid(number))
        assert (volume.source.series, volume.voxels.shape[0]) == (uid(number), count)
        assert len(volume.source.notes) == (number != 2)
    for number, words in ((8, "not evenly"), (6, "secondary capture")):
        refused(disc, words, uid(number))
    with pytest.raises(InvalidInput, match=rf"no series 1\.2\.3, expected one of .*{uid(9)}"):
        read_volume(disc, series="1.2.3")
    coronal = read_volume(disc, series=uid(9))
    assert coronal.source.orientation == "LIP"
    np.testing.assert_array_equal(coronal.voxels, THIN)


def test_a_scout_in_the_same_series_is_left_out(tmp_path: Path) -> None:
    data = slices(STORED, change=_on(0, localizer))
    volume = read_volume(write(tmp_path, data))
    assert volume.voxels.shape[0] == 21
    assert volume.source.notes == ("Left out of the series: 1 × localizer.",)


def test_each_study_is_one_scan(tmp_path: Path) -> None:
    """Of a flat folder, too; and one of them is not taken for the other."""
    tilt = _moved(lambda n: (0, 0.5 * n, 0))
    for study, change in ((1, None), (2, None), (3, localizer), (4, tilt), (5, tilt)):
        write(tmp_path, slices(STORED, study=study, change=change), f"{study}-{{}}.dcm")
    (tmp_path / "damaged").write_bytes((tmp_path / "1-0.dcm").read_bytes()[:150])
    (tmp_path / "9.nii.gz").write_bytes(b"")
    found = list(find_scans(tmp_path))
    assert [(scan.path.name, scan.series) for scan in found] == [
        *((tmp_path.name, uid(study=study)) for study in (1, 2, 3, 4, 5)),
        ("9.nii.gz", None), ("damaged", None),
    ]  # fmt: skip
    for scan, words in zip(found[2:5], ("localizer", "tilted", "tilted"), strict=True):
        with pytest.raises(Unreadable, match=words):
            read_volume(scan)
    assert scan.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("5-*"))
    write_file(tmp_path / "multiframe", enhanced(slices(STORED, study=6)))
    (scan,) = (scan for scan in find_scans(tmp_path) if scan.series == uid(study=6))
    assert scan.path == tmp_path / "multiframe"
    same(read_volume(scan))
    (tmp_path / "multiframe").unlink()
    refused(tmp_path, "damaged: a DICOM file without")
    for scan in (found[0], Scan(tmp_path, uid(study=1), 0, 0)):
        (note,) = same(read_volume(scan)).source.notes
        assert note.startswith("Not read, since damaged or closed: 1 files beside")
    (tmp_path / "damaged").unlink()
    refused(tmp_path, "CT images of 5 studies")
    assert read_volume(tmp_path, series=uid(study=2)).source.series == uid(study=2)
    with pytest.raises(Unreadable, match="without a scan"):
        list(find_scans(write(tmp_path / "mr", slices(STORED, change=capture))))


def test_a_study_among_others_is_not_searched_for_again(tmp_path: Path) -> None:
    """Thousands of studies in one folder: each file is looked at twice, not thousands of times."""
    for study in (1, 2):
        write(tmp_path / "all", slices(STORED, study=study), f"{study}-{{}}")
    write(tmp_path / "apart", slices(STORED, study=3))
    first, second, apart = find_scans(tmp_path)
    for path in (tmp_path / "all").glob("2-*"):
        path.write_bytes(b"no DICOM any more")
    same(read_volume(first))
    with pytest.raises(Unreadable, match="2-0"):
        read_volume(second)
    assert (len(first.files), apart.files) == (len(STORED), ())


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that cannot be read")
def test_what_cannot_be_looked_into_costs_no_other_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without permission, a link to nothing (git-annex, DVC), a bad sector."""
    for study in (1, 2):
        write(tmp_path / f"{study}", slices(STORED, study=study))
    write(tmp_path / "locked", slices(STORED, study=3))
    (tmp_path / "away.nii.gz").symlink_to("nothing")
    (tmp_path / "2" / "sector").symlink_to("/proc/self/mem")  # a regular file that gives EIO
    listed = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = {scan.path.name: scan for scan in find_scans(tmp_path)}
    assert list(found) == ["1", "2", "sector", "away.nii.gz", "locked"]
    assert same(read_volume(found["1"])).source.notes == ()
    assert "damaged or closed: 1 files" in same(read_volume(found["2"])).source.notes[0]
    refused(tmp_path / "2", "sector: Input/output error")
    for name, words in (
        ("sector", "Input/output error"), ("away.nii.gz", "a link to a file that is not there"),
        ("locked", "Permission denied"),
    ):  # fmt: skip
        with pytest.raises(Unreadable, match=f"{name}: {words}") as caught:
            read_volume(found[name])
        assert caught.value.remedy
    assert main(["series", str(tmp_path)]) == 0


def test_identifiers_of_anonymous_data_need_not_be_uids(tmp_path: Path) -> None:
    """They still tell series and studies apart, and are not repeated: they may be names."""
    for n, series in enumerate(("ID_5f8484c3e0", "a" * 64, "DOE-JOHN")):
        change = _set(SeriesInstanceUID=series, StudyInstanceUID="6897fa9de148")
        with config.disable_value_validation():
            step_mm = 1.0 if n == 1 else 2.5
            data = slices(STORED, (step_mm, 0.7, 0.8), change=change)
            write(tmp_path, data, f"{n}-{{}}")
    taken = hashlib.sha256(b"a" * 64).hexdigest()
    assert read_volume(tmp_path).source.series == taken
    (scan,) = find_scans(tmp_path)
    assert scan.series == taken


def test_what_is_no_scan_is_called_by_what_it_is(tmp_path: Path) -> None:
    """And only what can be read is offered by --series."""
    frontal = slices(STORED[:2], change=localizer)
    frontal[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    for name, data, words in (
        ("scout", frontal[:1], "no series to take: localizer"),
        ("scouts", frontal, "no series to take: localizer"),
        ("mr", slices(STORED, change=_set(SOPClassUID="1.2.840.10008.5.1.4.1.1.4")), "no CT image"),
    ):
        error = refused(write(tmp_path / name, data), words)
        assert "--series" not in error.remedy
        assert "CT series of many slices" in error.remedy
    error = refused(write(tmp_path / "few", slices(STORED[:19])), "fewer than 20")
    assert f"--series {uid()} takes this one" in error.remedy


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
