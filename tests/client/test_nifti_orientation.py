"""Whatever axes a file is stored on, the patient comes out the same way round."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctclip_client import Unreadable, read_volume
from ctclip_client.readers.orientation import orientation_of

from ..nifti_files import chest, edit, save

CODES = [
    "".join(codes)
    for axes in itertools.permutations(("LR", "PA", "SI"))
    for codes in itertools.product(*axes)
]


@pytest.mark.parametrize("codes", CODES)
def test_all_48_orientations_read_alike(codes: str, tmp_path: Path) -> None:
    hu = chest()
    volume = read_volume(save(tmp_path / "scan.nii", hu, codes=codes))
    np.testing.assert_array_equal(volume.voxels, hu)
    assert volume.spacing_mm == (2.5, 0.7, 0.8)
    assert volume.rescale == (1.0, 0.0)
    assert volume.source.orientation == codes
    assert volume.source.notes == ()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(*[st.integers(3, 12)] * 3),
    hundredths=st.tuples(*[st.integers(6, 1999)] * 3),
    codes=st.sampled_from(CODES),
    form=st.sampled_from([(".nii", 1), (".nii.gz", 1), (".nii", 2), (".nii.gz", 2)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_shape_spacing_and_voxels_follow_the_axes(
    shape: tuple[int, int, int],
    hundredths: tuple[int, int, int],
    codes: str,
    form: tuple[str, int],
    seed: int,
    tmp_path: Path,
) -> None:
    hu = chest(shape, seed)
    hu.flat[:4] = -1000, -850, 0, 40  # however small, still a chest
    spacing_mm = (hundredths[0] / 100, hundredths[1] / 100, hundredths[2] / 100)
    path = save(tmp_path / f"scan{form[0]}", hu, spacing_mm, codes, form[1])
    volume = read_volume(path, any_region=True)
    np.testing.assert_array_equal(volume.voxels, hu)
    assert volume.spacing_mm == spacing_mm  # the decimals that were meant, not float32's


def test_as_stored_trusts_no_header(tmp_path: Path) -> None:
    hu = chest()
    path = save(tmp_path / "scan.nii", hu, codes="RAS")
    volume = read_volume(path, as_stored=True, spacing_mm=(1.5, 0.9, 0.9))
    np.testing.assert_array_equal(volume.voxels, hu[:, ::-1, ::-1])
    assert volume.spacing_mm == (1.5, 0.9, 0.9)
    assert volume.source.orientation == "as stored"


def test_as_stored_says_nothing_of_a_damaged_affine(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", chest())
    content = bytearray(path.read_bytes())
    content[296:300] = b"\x01\x00\x80\x7f"  # srow_y: a NaN that warns when it is converted
    path.write_bytes(content)
    assert read_volume(path, as_stored=True, spacing_mm=(1.5, 0.9, 0.9)).voxels.any()


@pytest.mark.parametrize(
    "fields",
    [
        {"sform_code": 0, "qform_code": 0},
        {
            "sform_code": 2, "qform_code": 0, "pixdim": (1,) * 8,
            "srow_x": (1, 0, 0, 0), "srow_y": (0, 1, 0, 0), "srow_z": (0, 0, 1, 0),
        },
    ],
    ids=["no codes", "identity"],
)  # fmt: skip
def test_no_orientation_is_refused_unless_as_stored(
    fields: dict[str, object], tmp_path: Path
) -> None:
    path = edit(save(tmp_path / "scan.nii", chest()), **fields)
    with pytest.raises(Unreadable, match="orientation") as caught:
        read_volume(path)
    assert "--as-stored --spacing" in caught.value.remedy
    volume = read_volume(path, as_stored=True, spacing_mm=(2.5, 0.7, 0.8))
    np.testing.assert_array_equal(volume.voxels, chest())


def tilted(degrees: float) -> np.ndarray:
    """An LPS affine turned about the patient's left-right axis."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ np.diag([-0.7, -0.8, 2.5, 1])


def with_affine(path: Path, affine: np.ndarray) -> Path:
    rows = {f"srow_{axis}": list(affine[i]) for i, axis in enumerate("xyz")}
    return edit(path, sform_code=1, qform_code=0, **rows)


def test_a_small_tilt_is_taken_and_told(tmp_path: Path) -> None:
    path = with_affine(save(tmp_path / "scan.nii", chest()), tilted(7))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, chest())
    assert volume.spacing_mm == (2.5, 0.7, 0.8)
    assert len(volume.source.notes) == 1
    assert "tilted by 7.0°" in volume.source.notes[0]
    assert "LPS" in volume.source.notes[0]


@pytest.mark.parametrize("degrees", [25, 44, 46, -60])
def test_a_large_tilt_is_refused(degrees: float, tmp_path: Path) -> None:
    path = with_affine(save(tmp_path / "scan.nii", chest()), tilted(degrees))
    with pytest.raises(Unreadable, match=r"tilted|contradicts"):
        read_volume(path)


def test_a_sheared_grid_is_refused(tmp_path: Path) -> None:
    affine = np.diag([-0.7, -0.8, 2.5, 1])
    affine[1, 2] = 0.5  # each slice lies 0.5 mm further: a tilted gantry
    path = with_affine(save(tmp_path / "scan.nii", chest()), affine)
    path = edit(path, pixdim=(1, 0.7, 0.8, float(np.hypot(2.5, 0.5)), 0, 0, 0, 0))
    with pytest.raises(Unreadable, match="sheared by 11"):
        read_volume(path)


@pytest.mark.parametrize("degrees", [3, 7, 9, 15])
@pytest.mark.parametrize("step", ["across the slices", "along the table"])
def test_a_tilted_gantry_is_told_as_one(degrees: float, step: str, tmp_path: Path) -> None:
    """pixdim may have either step: beyond 8° they differ by more than is forgiven elsewhere. The
    qform has no shear."""
    path = save(tmp_path / "scan.nii", chest())
    drift = 2.5 * np.tan(np.radians(degrees))
    pixdim = 2.5 if step == "across the slices" else float(np.hypot(2.5, drift))
    path = edit(
        path, sform_code=1, qform_code=1, pixdim=(1, 0.7, 0.8, pixdim, 0, 0, 0, 0),
        srow_y=(0, -0.8, drift, -7),
    )  # fmt: skip
    with pytest.raises(Unreadable, match=rf"sheared by {degrees}.0° \(a tilted gantry\)") as caught:
        read_volume(path)
    assert "resample_to_output" in caught.value.remedy


def test_orientation_of_nothing() -> None:
    assert orientation_of(np.zeros((4, 4))) is None
    assert orientation_of(np.full((4, 4), np.inf)) is None


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("3_chest_Tilt_1.nii.gz", "a tilted gantry"),
        ("3_chest_Tilt.nii", "a tilted gantry"),
        ("3_chest_Tilt_Eq_1.nii.gz", "a tilted gantry"),
        ("3_chest_Eq_1.nii.gz", "uneven steps"),
        ("3_chest_Equal.nii.gz", ""),
        ("3_Tilted_chest.nii.gz", ""),
        ("Tilt.nii", ""),
    ],
)
def test_what_dcm2niix_has_resampled_is_refused(name: str, refused: str, tmp_path: Path) -> None:
    """Its header is as any other's: the name alone tells."""
    path = save(tmp_path / name, chest())
    if not refused:
        np.testing.assert_array_equal(read_volume(path).voxels, chest())
        return
    with pytest.raises(Unreadable, match=f"resampled for {refused}") as caught:
        read_volume(path)
    assert "another name" in caught.value.remedy
    assert read_volume(path, as_stored=True, spacing_mm=(2.5, 0.7, 0.8)).voxels.shape == (5, 6, 7)


@pytest.mark.parametrize(("codes", "axis"), [("LPS", 3), ("LAS", 3), ("LPS", 1), ("LPS", 2)])
def test_overlapping_slices_as_dcm2niix_has_written_them(
    codes: str, axis: int, tmp_path: Path
) -> None:
    """Steps of 0.6 mm in pixdim and qform, of 0.8 mm (the thickness) in the sform: whoever only
    mends the header may keep a z that runs the wrong way, which nothing in the file shows."""
    path = save(tmp_path / "scan.nii", chest(), codes=codes)
    image = nibabel.load(path)
    edges = image.header["pixdim"].copy()
    edges[axis] *= 0.75
    edit(path, pixdim=tuple(edges), qform_code=1, sform_code=1)
    with pytest.raises(Unreadable, match="the header contradicts itself: pixdim says") as caught:
        read_volume(path)
    assert ("wrong direction of z" in caught.value.remedy) == (axis == 3)
