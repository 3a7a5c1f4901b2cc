"""CT-RATE as it is: its table gives spacing, slope and intercept, and never rescales twice."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from ctclip_client import InvalidInput, Unreadable, read_volume
from ctclip_client.readers import Metadata

from ..conftest import DATA
from ..nifti_files import chest, save

CASES = json.loads((DATA / "golden" / "preprocess" / "cases.json").read_text())[:6]
HEADER = "VolumeName,Manufacturer,RescaleIntercept,RescaleSlope,XYSpacing,ZSpacing"
ROW = 'scan.nii.gz,PMS,-1024,1,"[0.68, 0.68]",2.5'


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "metadata.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def scan(folder: Path, stored: NDArray[Any], scaling: tuple[float, float] | None = None) -> Path:
    """An array on (z, x, y) as CT-RATE stores it: [x, y, z], and nothing else in the header."""
    image = nibabel.Nifti1Image(stored.transpose(1, 2, 0), np.eye(4), dtype=stored.dtype)
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    path = folder / "scan.nii.gz"
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_a_row_is_what_upstream_was_given(case: dict[str, Any], tmp_path: Path) -> None:
    """The golden files of upstream's own script, by the row that it read."""
    with np.load(DATA / "golden" / "preprocess" / "expected.npz") as arrays:
        stored = arrays[f"{case['case']}_stored"]
    xy, z = case["xy_spacing_mm"], case["z_spacing_mm"]
    path = scan(tmp_path, stored.transpose(2, 0, 1))
    row = f'scan.nii.gz,x,{case["intercept"]},{case["slope"]},"[{xy}, {xy}]",{z}'
    volume = read_volume(path, metadata=table(tmp_path, row), any_region=True)
    np.testing.assert_array_equal(volume.voxels, stored.transpose(2, 0, 1))
    assert (volume.spacing_mm, volume.rescale) == (
        (z, xy, xy), (case["slope"], case["intercept"])
    )  # fmt: skip
    assert volume.source.spacing_source == "metadata, line 2"


@pytest.mark.parametrize("scaling", [None, (1.0, 0.0), (2.0, -24.0), (0.5, 3.0)])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_it_is_applied_on_top_of_the_headers_scaling_as_upstream_does(
    scaling: tuple[float, float] | None, dtype: type, tmp_path: Path
) -> None:
    a, b = scaling or (1.0, 0.0)
    stored = ((chest().astype(float) + 1024 - b) / a).astype(dtype)
    path = scan(tmp_path, stored, scaling)
    volume = read_volume(path, metadata=Metadata.from_file(table(tmp_path, ROW)))
    upstream = 1.0 * nibabel.load(path).get_fdata() - 1024.0  # (x, y, z)
    hu = volume.voxels * volume.rescale[0] + volume.rescale[1]
    expected = upstream.transpose(2, 0, 1)
    if dtype is np.float32:
        expected = expected.clip(-1000, 1000)
    np.testing.assert_allclose(hu, expected, rtol=0, atol=1 / 64 if dtype is np.float32 else 0)
    assert volume.source.hu_source.startswith("metadata, line 2: slope 1, intercept -1024, on top ")
    assert volume.source.notes == ()


@pytest.mark.parametrize("dtype", [np.int16, np.float64])
@pytest.mark.parametrize("scaling", [None, (1.0, -1024.0)])
def test_the_second_generation_is_not_rescaled_twice(
    scaling: tuple[float, float] | None, dtype: type, tmp_path: Path
) -> None:
    stored = (chest().astype(float) - (scaling or (1.0, 0.0))[1]).astype(dtype)
    volume = read_volume(scan(tmp_path, stored, scaling), metadata=table(tmp_path, ROW))
    hu = volume.voxels * volume.rescale[0] + volume.rescale[1]
    np.testing.assert_array_equal(hu, chest().clip(-1000, 1000) if dtype is np.float64 else chest())
    assert "not used: the metadata's slope 1, intercept -1024" in volume.source.hu_source
    (note,) = volume.source.notes
    assert "second generation" in note


def test_what_is_no_chest_with_the_row_nor_without_it_is_refused(tmp_path: Path) -> None:
    path = scan(tmp_path, chest() + np.int16(3000))
    with pytest.raises(Unreadable, match="Hounsfield"):
        read_volume(path, metadata=table(tmp_path, ROW))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ROW.replace("scan", "other")], ["no row for scan.nii.gz", "VolumeName"]),
        ([ROW.replace(",1,", ",one,")], ["line 2, column RescaleSlope", "a number"]),
        (["", ROW.replace("2.5", "")], ["line 3, column ZSpacing"]),
        ([ROW.replace("0.68]", "0.7]")], ["column XYSpacing", "two equal numbers"]),
        ([ROW.replace("2.5", "nan")], ["column ZSpacing"]),
        ([ROW.replace("2.5", "[2.5, 2.5]")], ["column ZSpacing"]),
        ([ROW.replace("2.5", "250")], ["line 2: spacing_mm: z is 250"]),
        ([ROW.replace(",1,", ",0,")], ["line 2: rescale: slope is 0"]),
        ([ROW, ROW.replace("2.5", "3.0")], ["lines 2 and 3 say different things"]),
        (['"scan'], ["no CSV file"]),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_named(
    rows: list[str], words: list[str], tmp_path: Path
) -> None:
    path = scan(tmp_path, chest())
    with pytest.raises(InvalidInput) as caught:
        read_volume(path, metadata=table(tmp_path, *rows))
    assert all(word in caught.value.cause for word in words), caught.value.cause
    assert caught.value.remedy


def test_a_table_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        Metadata.from_file(tmp_path / "absent.csv")
    with pytest.raises(InvalidInput, match="no column VolumeName, ZSpacing, expected VolumeName"):
        Metadata.from_file(table(tmp_path, header="RescaleIntercept,RescaleSlope,XYSpacing"))
    (tmp_path / "metadata.csv").write_bytes(b"\xff\xfe\0")
    with pytest.raises(InvalidInput, match="no CSV file in UTF-8"):
        Metadata.from_file(tmp_path / "metadata.csv")


def test_it_is_read_once_and_goes_to_other_processes(tmp_path: Path) -> None:
    """Identical rows are one; a byte-order mark and an unpacked file's name do not matter."""
    path = table(tmp_path, ROW, ROW, header="\ufeff" + HEADER)
    metadata = pickle.loads(pickle.dumps(Metadata.from_file(path)))  # noqa: S301 (our own)
    path.unlink()
    row = metadata.row(Path("elsewhere") / "scan.nii")
    assert (row.line, row.spacing_mm, row.rescale) == (2, (2.5, 0.68, 0.68), (1.0, -1024.0))
    assert "PMS" not in repr(metadata)


def test_in_an_archive_the_name_of_its_file_counts(tmp_path: Path) -> None:
    path = scan(tmp_path, chest())
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.write(path, "train/scan.nii.gz")
    volume = read_volume(tmp_path / "download.zip", metadata=table(tmp_path, ROW))
    assert volume.source.spacing_source == "metadata, line 2"


@pytest.mark.parametrize(
    ("spacing_mm", "codes", "told"),
    [
        ((2.5, 0.68, 0.68), "LPS", []),  # the second generation of CT-RATE
        ((2.503, 0.6797, 0.6797), "LPS", []),
        ((1.0, 1.0, 1.0), "RAS", []),  # the first one: the identity says nothing
        ((2.5, 0.7, 0.7), "LPS", ["0.7 × 0.7 × 2.5 mm"]),
        ((2.5, 2.8, 2.8), "LPS", ["2.8 × 2.8 × 2.5 mm"]),
        ((2.5, 0.68, 0.68), "LAS", ["towards LAS"]),
        ((5.0, 0.68, 0.68), "SPL", ["5 × 0.68 × 0.68 mm", "towards SPL"]),
    ],
)
def test_a_header_that_says_otherwise_is_told(
    spacing_mm: tuple[float, float, float], codes: str, told: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "scan.nii.gz"
    if codes == "RAS":
        scan(tmp_path, chest())
    else:
        save(path, chest(), spacing_mm, codes)
    row = ROW.replace("-1024", "0")
    volume = read_volume(path, metadata=table(tmp_path, row))
    assert volume.spacing_mm == (2.5, 0.68, 0.68)
    assert volume.source.orientation == "as stored"
    assert len(volume.source.notes) == len(told)
    for words, note in zip(told, volume.source.notes, strict=True):
        assert words in note


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        ("valid_1_a_1.nii.gz", True),
        ("train_20000_b_12.nii", True),
        ("scan.nii.gz", False),
        ("valid_1_a_1_copy.nii.gz", False),
    ],
)
def test_a_blank_file_of_ct_rate_is_pointed_to_its_table(
    name: str, is_named: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    nibabel.save(nibabel.Nifti1Image(chest().transpose(1, 2, 0), np.eye(4)), path)
    with pytest.raises(Unreadable, match="blank orientation") as caught:
        read_volume(path)
    assert ("--metadata" in caught.value.remedy) == is_named
    assert "--as-stored" in caught.value.remedy


def test_it_excludes_what_it_says_itself(tmp_path: Path) -> None:
    path = scan(tmp_path, chest())
    for options in ({"spacing_mm": (1, 1, 1), "as_stored": True}, {"rescale": (1, 0)}):
        with pytest.raises(InvalidInput, match="metadata is given together with"):
            read_volume(path, metadata=table(tmp_path, ROW), **options)  # type: ignore[arg-type]
