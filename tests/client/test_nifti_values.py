"""Stored values become int16 without losing anything, and only if they can be a chest's HU."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctclip_client import InvalidInput, Unreadable, read_volume

from ..conftest import DATA
from ..nifti_files import chest, edit, save

CASES = json.loads((DATA / "golden" / "preprocess" / "cases.json").read_text())[:6]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_golden_files_as_stored(case: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    """What upstream reads from a CT-RATE file with a blank header, byte for byte."""
    with np.load(DATA / "golden" / "preprocess" / "expected.npz") as arrays:
        stored = arrays[f"{case['case']}_stored"]
    path = tmp_path / f"scan{suffix}"
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), path)
    spacing_mm = (case["z_spacing_mm"], case["xy_spacing_mm"], case["xy_spacing_mm"])
    rescale = (case["slope"], case["intercept"])
    volume = read_volume(
        path, as_stored=True, spacing_mm=spacing_mm, rescale=rescale, any_region=True
    )
    np.testing.assert_array_equal(volume.voxels, stored.transpose(2, 0, 1))
    assert (volume.spacing_mm, volume.rescale) == (spacing_mm, rescale)
    assert volume.source.hu_source.startswith("given: slope ")


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<i8", "<u8"])
def test_integers_in_range_stay_as_they_are(dtype: str, tmp_path: Path) -> None:
    hu = chest()
    stored = (hu + 1024).astype(dtype)
    kind = nibabel.Nifti1Header(endianness=dtype[0])
    kind.set_data_dtype(dtype)
    image = nibabel.Nifti1Image(
        stored.transpose(1, 2, 0), np.diag([-0.7, -0.8, 2.5, 1]), kind, dtype=dtype
    )
    path = tmp_path / "scan.nii"
    nibabel.save(image, path)
    volume = read_volume(path, rescale=(1, -1024))
    np.testing.assert_array_equal(volume.voxels, stored)
    assert volume.voxels.dtype == np.int16
    assert volume.rescale == (1.0, -1024.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_bytes_with_the_headers_own_scaling(dtype: type, tmp_path: Path) -> None:
    stored = ((chest().astype(int) + 1009) // 11).clip(0, 119).astype(dtype)
    path = edit(save(tmp_path / "scan.nii", stored), scl_slope=11, scl_inter=-1009)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, stored)
    assert volume.rescale == (11.0, -1009.0)
    assert volume.source.hu_source == "header: slope 11, intercept -1009"


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_no_scaling_in_the_header(slope: float, tmp_path: Path) -> None:
    path = edit(save(tmp_path / "scan.nii", chest()), scl_slope=slope, scl_inter=-1024)
    volume = read_volume(path)
    assert volume.rescale == (1.0, 0.0)
    assert volume.source.hu_source == "stored values are HU (no scaling in the header)"


def test_given_values_replace_the_headers(tmp_path: Path) -> None:
    path = edit(save(tmp_path / "scan.nii", chest()), scl_slope=1, scl_inter=-1024)
    with pytest.raises(Unreadable, match=r"soft tissue|clipped"):
        read_volume(path)  # rescaled twice: upstream's issue 50
    volume = read_volume(path, rescale=(1, 0))
    assert volume.rescale == (1.0, 0.0)
    assert "not used: the header's slope 1, intercept -1024" in volume.source.hu_source


def test_upstreams_row_on_top_of_the_headers_scaling(tmp_path: Path) -> None:
    """Upstream: `get_fdata`, which applies the header's (a, b), then the row's slope, intercept."""
    (a, b), (slope, intercept) = (2.0, -24.0), (0.5, 12.0)
    path = edit(save(tmp_path / "scan.nii", chest()), scl_slope=a, scl_inter=b)
    volume = read_volume(path, rescale=(slope * a, slope * b + intercept))
    upstream = nibabel.load(path).get_fdata() * slope + intercept
    hu = volume.voxels * volume.rescale[0] + volume.rescale[1]
    np.testing.assert_array_equal(hu, upstream.transpose(2, 0, 1))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    dtype=st.sampled_from([np.float32, np.float64, np.int32, np.uint16]),
    slope=st.sampled_from([1.0, 0.5, 0.123, 3.0]),
    outlier=st.sampled_from([40000, 65535, 33000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_everything_else_is_within_a_64th_of_a_unit(
    dtype: type, slope: float, outlier: int, seed: int, tmp_path: Path
) -> None:
    hu = chest((6, 6, 6), seed).astype(np.float64)
    hu.flat[:4] = -1000, -850, 0, 40
    stored = ((hu + 1024) / slope).astype(dtype)
    stored.flat[-1] = outlier  # beyond int16
    volume = read_volume(save(tmp_path / "scan.nii", stored), rescale=(slope, -1024))
    assert volume.rescale == (1 / 32, 0.0)
    assert "sent as 1/32 HU" in volume.source.hu_source
    expected = np.clip(stored.astype(np.float64) * slope - 1024, -1000, 1000)
    assert np.abs(volume.voxels / 32 - expected).max() <= 1 / 64


def test_any_region_needs_no_air(tmp_path: Path) -> None:
    """The liver alone; and what nobody has rescaled is refused all the same."""
    path = save(tmp_path / "scan.nii", np.full((6, 6, 6), 60, np.int16))
    with pytest.raises(Unreadable, match="are air"):
        read_volume(path)
    (note,) = read_volume(path, any_region=True).source.notes
    assert "any region was asked for" in note
    with pytest.raises(Unreadable, match="would be clipped"):
        read_volume(path, any_region=True, rescale=(1, 5000))


def test_more_than_a_chest_needs_is_refused_before_room_is_made(tmp_path: Path) -> None:
    """The files have holes: they take no room on the disk."""
    path = save(tmp_path / "scan.nii", chest())
    os.truncate(path, 2 << 20)
    with pytest.raises(Unreadable, match="more than 1,048,576 bytes behind"):
        read_volume(path)
    edit(path, dim=[3, 2000, 1000, 700, 1, 1, 1, 1])
    os.truncate(path, 3 << 30)
    with pytest.raises(Unreadable, match="too large: 1,400,000,000 voxels"):
        read_volume(path)
    path.unlink()


def test_float_units_without_scaling(tmp_path: Path) -> None:
    hu = chest().astype(np.float32) + np.float32(0.25)
    hu[0, 0, 0] = -3000
    volume = read_volume(save(tmp_path / "scan.nii.gz", hu, codes="LAS"))
    np.testing.assert_array_equal(volume.voxels, 32 * hu.clip(-1000, 1000))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float, tmp_path: Path) -> None:
    hu = chest().astype(np.float32)
    hu[1, 2, 3] = bad
    with pytest.raises(Unreadable, match="NaN or infinity") as caught:
        read_volume(save(tmp_path / "scan.nii", hu))
    assert "nan_to_num" in caught.value.remedy


@pytest.mark.parametrize(
    ("rescale", "message"),
    [
        ((1, 1024), "are air"),  # stored values that nobody rescaled
        ((1, -1024), "soft tissue"),  # rescaled twice
        ((1, -5000), "would be clipped"),
        ((1, 5000), "would be clipped"),
        ((0.001, 0), "are air"),
    ],
)
def test_what_cannot_be_hounsfield_units_is_refused(
    rescale: tuple[float, float], message: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "scan.nii", chest((12, 12, 12)))
    with pytest.raises(Unreadable, match=message) as caught:
        read_volume(path, rescale=rescale)
    assert "--slope and --intercept" in caught.value.remedy


def test_padding_is_not_taken_for_air(tmp_path: Path) -> None:
    """Unscaled values, padded with −1024 outside the field of view."""
    stored = chest((12, 12, 12)) + np.int16(1024)
    stored[:, :3] = -1024
    path = save(tmp_path / "scan.nii", stored)
    with pytest.raises(Unreadable, match="are lung"):
        read_volume(path)
    assert read_volume(path, rescale=(1, -1024)).rescale == (1.0, -1024.0)


@pytest.mark.parametrize(
    ("units", "factor", "name"), [(1, 1000.0, "metres"), (3, 0.001, "microns")]
)
def test_other_units_are_converted_and_told(
    units: int, factor: float, name: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "scan.nii", chest(), (2.5 / factor, 0.7 / factor, 0.8 / factor))
    volume = read_volume(edit(path, xyzt_units=units))
    assert volume.spacing_mm == (2.5, 0.7, 0.8)
    assert name in volume.source.notes[0]


@pytest.mark.parametrize("units", [0, 2, 10, 2 + 8])
def test_unknown_units_are_millimetres(units: int, tmp_path: Path) -> None:
    path = edit(save(tmp_path / "scan.nii", chest()), xyzt_units=units)
    assert read_volume(path).spacing_mm == (2.5, 0.7, 0.8)


def test_metres_called_millimetres_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", chest(), (0.0025, 0.0007, 0.0008))
    with pytest.raises(Unreadable, match=r"spacing_mm: z is 0.0025"):
        read_volume(path)
    with pytest.raises(Unreadable, match=r"spacing_mm: z is 0.0025"):
        read_volume(edit(path, xyzt_units=5))  # no unit of NIfTI's: taken for millimetres


def test_an_axis_of_one_behind_the_three_is_no_axis(tmp_path: Path) -> None:
    hu = chest()
    affine = np.diag([-0.7, -0.8, 2.5, 1])
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(hu.transpose(1, 2, 0)[..., None], affine), path)
    np.testing.assert_array_equal(read_volume(path).voxels, hu)
    for shape in ((6, 7, 5, 2), (6, 7), (6, 7, 5, 1, 3)):
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), affine), path)
        with pytest.raises(Unreadable, match="expected one volume of three axes"):
            read_volume(path)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    hu = chest()
    plain = save(tmp_path / "scan.nii", hu)
    (tmp_path / "plain.nii.gz").write_bytes(plain.read_bytes())
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("plain.nii.gz", "packed.nii"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).voxels, hu)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"as_stored": True}, "as_stored without spacing"),
        ({"spacing_mm": (1, 1, 1)}, "without as_stored"),
        ({"as_stored": True, "spacing_mm": (1, 1)}, "expected three numbers"),
        ({"as_stored": True, "spacing_mm": (1, 1, 100)}, "spacing_mm: y is 100"),
        ({"rescale": (0, 0)}, "slope is 0"),
        ({"rescale": (1,)}, "expected two numbers"),
    ],
)
def test_options_that_make_no_sense(options: Any, message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", chest())
    with pytest.raises(InvalidInput, match=message):
        read_volume(path, **options)
