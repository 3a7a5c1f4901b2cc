"""NRRD and MetaImage: turned by their own axes, and refused before SimpleITK can be misled."""

from __future__ import annotations

import gzip
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from ctclip_client import Unreadable, read_volume

from ..nifti_files import chest, save
from ..volume_files import save_itk

BOTH = pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
NAMES = ["scan.nrrd", "scan.nhdr", "scan.mha", "scan.mhd"]


def edited(path: Path, old: str, new: str) -> Path:
    """The file with a part of its header replaced (a regular expression)."""
    content, count = re.subn(old.encode(), new.encode(), path.read_bytes(), count=1)
    assert count, old
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "SRP", "AIL", "PSR", "RAI"])
@BOTH
def test_every_orientation_gives_the_same_volume(suffix: str, codes: str, tmp_path: Path) -> None:
    path = save_itk(tmp_path / f"scan{suffix}", chest(), codes=codes)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, chest())
    assert (volume.spacing_mm, volume.rescale) == ((2.5, 0.7, 0.8), (1.0, 0.0))
    source = volume.source
    assert (source.orientation, source.spacing_source) == (codes, "header")
    assert source.hu_source == "stored values are HU (no scaling in the header)"
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@BOTH
def test_the_grid_is_the_niftis(suffix: str, tmp_path: Path) -> None:
    """Maps that are laid on the scan find the same voxels at the same place."""
    image = SimpleITK.ReadImage(str(save_itk(tmp_path / f"scan{suffix}", chest(), codes="LAS")))
    SimpleITK.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    ours, theirs = (read_volume(tmp_path / f"scan{s}").source.grid for s in (suffix, ".nii.gz"))
    assert ours is not None
    assert ours.sform is not None
    assert theirs is not None
    assert theirs.sform is not None
    np.testing.assert_allclose(ours.sform.affine, theirs.sform.affine, rtol=0, atol=1e-5)
    assert (ours.shape, ours.axes, ours.flips) == (theirs.shape, theirs.axes, theirs.flips)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
@BOTH
def test_every_type_of_voxel(suffix: str, dtype: str, tmp_path: Path) -> None:
    stored = ((chest().astype(int) + 1009) // 11).clip(0, 119).astype(dtype)
    path = save_itk(tmp_path / f"scan{suffix}", stored, packed=dtype == "f4")
    volume = read_volume(path, rescale=(11, -1009))
    hu = volume.voxels * volume.rescale[0] + volume.rescale[1]
    expected = stored.astype(int) * 11 - 1009
    np.testing.assert_array_equal(hu, expected.clip(-1000) if dtype[0] == "f" else expected)


@pytest.mark.parametrize("name", ["scan.nhdr", "scan.mhd"])
def test_a_pair_of_files_is_read(name: str, tmp_path: Path) -> None:
    path = save_itk(tmp_path / name, chest(), packed=False)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, chest())
    parts = b"".join(
        hashlib.sha256(part.read_bytes()).digest() for part in (path, tmp_path / "scan.raw")
    )
    assert volume.source.sha256 == hashlib.sha256(parts).hexdigest()
    (tmp_path / "scan.raw").unlink()
    with pytest.raises(Unreadable, match="lies beside it"):
        read_volume(path)


@pytest.mark.parametrize(
    "elsewhere", ["../scan.raw", "/etc/passwd", "LIST", "list 2", "-x", "x%03d.raw 1 9 1", ""]
)
@pytest.mark.parametrize("name", ["scan.nhdr", "scan.mhd"])
def test_no_other_folder_is_looked_into(name: str, elsewhere: str, tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    path = save_itk(folder / name, chest(), packed=False)
    for there in (tmp_path / "scan.raw", *(folder / name for name in ("LIST", "list 2", "-x"))):
        there.write_bytes((folder / "scan.raw").read_bytes())
    with pytest.raises(Unreadable, match=r"lies beside it|does not end"):
        read_volume(edited(path, "(ElementDataFile = |data file: ).*", rf"\1{elsewhere}"))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("scan.nrrd", "space: .*\n", "", "no orientation"),
        ("scan.nrrd", "space: .*\n", "space: scanner-xyz\n", "no orientation"),
        ("scan.nrrd", "space directions: .*\n", "spacings: 1 1 1\n", "no orientation"),
        ("scan.mha", "TransformMatrix.*\n", "", "no orientation"),
        ("scan.nrrd", "encoding: raw", "encoding: bzip2", r"encoding is none .*\(bzip2\)"),
        ("scan.nrrd", "encoding: raw", "encoding: Doe", "encoding is none that is read here, exp"),
        ("scan.nrrd", "encoding: raw", "encoding: raw\nbyte skip: 7", "byteskip is none"),
        ("scan.nrrd", "encoding", 'space units: "mm" "mm" "m"\nencoding', "space units is none"),
        ("scan.nrrd", "sizes: 6 7 5", "sizes: 6 7 6", "cut short: the header promises"),
        ("scan.nrrd", "sizes: 6 7 5", "sizes: 60000 70000 5", "cut short: the header promises"),
        ("scan.nrrd", "sizes: 6 7 5", "sizes: 6 35", "one volume of three axes"),
        ("scan.nrrd", "dimension: 3", "dimension: 4", "one volume of three axes"),
        ("scan.nrrd", "type: int16|type: short", "type: block", "damaged"),
        ("scan.nrrd", "sizes", "sizes: 6 7 5\nsizes", "twice"),
        ("scan.nrrd", r"\(0.6.*?,0,0\)", "(0.7,0.1,0)", "sheared"),
        ("scan.nrrd", r"\(0.6.*?,0,0\)", "(0,0,0)", "no unit vectors"),
        ("scan.mha", "DimSize = 6 7 5", "DimSize = 6 7 6", "cut short: the header promises"),
        ("scan.mha", "DimSize = 6 7 5", "DimSize = 6 7 4", "cut short: the header promises"),
        ("scan.mha", "DimSize = 6 7 5", "DimSize = 6 7 -5", "one volume of three axes"),
        ("scan.mha", "ElementSpacing = .*\n", "", "no edges of a voxel"),
        ("scan.mha", "NDims = 3", "NDims = 99999", "one volume of three axes"),
        ("scan.mha", "BinaryData = True", "BinaryData = False", "BinaryData is none"),
        ("scan.mha", "DimSize", "HeaderSize = 64\nDimSize", "HeaderSize is none"),
        ("scan.mha", "DimSize", "ElementNumberOfChannels = 2\nDimSize", "vector"),
        ("scan.mha", "CompressedData = False", "CompressedData = Maybe", "CompressedData is"),
        ("scan.mha", "CompressedData = False", "CompressedData = True", "CompressedDataSize is no"),
        (
            "scan.mha",
            "CompressedData = False",
            "CompressedData = True\nCompressedDataSize = 400",
            "damaged packed voxels",
        ),
        ("scan.mha", "ElementSpacing = .*", "ElementSpacing = 0.0007 0.0008 0.0025", "spacing_mm"),
    ],
)
def test_what_a_header_can_be_refused_for(
    name: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = edited(save_itk(tmp_path / name, chest(), packed=False), old, new)
    with pytest.raises(Unreadable, match=message) as caught:
        read_volume(path)
    assert str(path) in caught.value.cause
    assert caught.value.remedy


def test_no_command_is_offered_that_would_make_up_what_is_missing(tmp_path: Path) -> None:
    """SimpleITK looks at no unit, and takes a scan without orientation for one along its axes."""
    for name, refused, *more in (
        ("scan.nrrd", ("encoding: raw", "encoding: ascii"), ("space: .*\n", "")),
        ("scan.nrrd", ("encoding: raw", "encoding: ascii"), ("space dir.*\n", "")),
        ("scan.nrrd", ("encoding: raw", 'space units: "cm" "cm" "cm"\nencoding: ascii')),
        ("scan.mha", ("DimSize", "HeaderSize = -1\nDimSize"), ("TransformMatrix.*\n", "")),
        ("scan.mha", ("DimSize", "HeaderSize = -1\nDimSize"), ("ElementSpacing = .*\n", "")),
    ):
        path = edited(save_itk(tmp_path / name, chest(), packed=False), *refused)
        if more:
            with pytest.raises(Unreadable) as caught:
                read_volume(path)
            assert "SimpleITK import" in caught.value.remedy
            edited(path, *more[0])
        with pytest.raises(Unreadable) as caught:
            read_volume(path)
        assert "by the tool that it comes from" in caught.value.remedy


@BOTH
def test_padding_and_comments_do_no_harm(suffix: str, tmp_path: Path) -> None:
    path = save_itk(tmp_path / f"scan{suffix}", chest(), packed=False)
    if suffix == ".mha":
        edited(path, "NDims", "Comment = a\nComment = b\nNDims")
    path.write_bytes(path.read_bytes() + b"\n\0")
    np.testing.assert_array_equal(read_volume(path).voxels, chest())


@BOTH
def test_without_orientation_it_is_read_as_stored(suffix: str, tmp_path: Path) -> None:
    path = save_itk(tmp_path / f"scan{suffix}", chest(), codes="LAS")
    if suffix == ".nrrd":
        edited(path, "space origin: .*\n", "")
        edited(path, "space directions: .*\n", "")
    edited(path, r"space: .*\n|TransformMatrix.*\n", "")
    volume = read_volume(path, as_stored=True, spacing_mm=(2.5, 0.7, 0.8))
    np.testing.assert_array_equal(volume.voxels, chest()[:, :, ::-1])
    assert volume.source.orientation == "as stored"


def test_several_numbers_a_voxel_are_refused(tmp_path: Path) -> None:
    stored = np.stack([chest(), chest()], -1)
    image = SimpleITK.GetImageFromArray(stored, isVector=True)
    for suffix in (".nrrd", ".mha"):
        SimpleITK.WriteImage(image, str(tmp_path / f"scan{suffix}"))
        with pytest.raises(Unreadable, match=r"three axes|vector"):
            read_volume(tmp_path / f"scan{suffix}")


@BOTH
def test_packed_voxels_are_compared_with_their_checksum(suffix: str, tmp_path: Path) -> None:
    """SimpleITK returns a MetaImage whose packed voxels are damaged as if nothing was wrong."""
    path = save_itk(tmp_path / f"scan{suffix}", chest((12, 12, 12)))
    content = path.read_bytes()
    for position in range(len(content) - 12, len(content) // 2, -97):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        with pytest.raises(Unreadable, match=r"damaged|cut short"):
            read_volume(path)
    for length in (len(content) - 1, len(content) - 9, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(Unreadable, match=r"damaged|cut short"):
            read_volume(path)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    path = save_itk(tmp_path / "scan.nrrd", chest())
    edited(path, "sizes: 6 7 5", "sizes: 4000 4000 4000")
    with pytest.raises(Unreadable, match="cut short: the header promises"):
        read_volume(path)


def test_a_name_says_nothing_and_gzip_around_it_is_refused(tmp_path: Path) -> None:
    path = save_itk(tmp_path / "scan.nrrd", chest())
    (tmp_path / "scan.nii.gz").write_bytes(path.read_bytes())
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii.gz").voxels, chest())
    (tmp_path / "scan.nrrd.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(Unreadable, match="packed by gzip as a whole") as caught:
        read_volume(tmp_path / "scan.nrrd.gz")
    assert "gunzip" in caught.value.remedy


@BOTH
def test_without_simpleitk_it_says_how_to_install_it(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_itk(tmp_path / f"scan{suffix}", chest())
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(Unreadable, match="SimpleITK, which is not installed") as caught:
        read_volume(path)
    assert 'pip install "./client[nrrd]"' in caught.value.remedy
    assert read_volume(save(tmp_path / "scan.nii", chest())).voxels.shape == (5, 6, 7)


def test_an_error_repeats_nothing_of_the_header(tmp_path: Path, capfd: Any) -> None:
    path = save_itk(tmp_path / "scan.nrrd", chest(), packed=False)
    edited(path, "kinds: .*", "kinds: DOE^JANE\ncontent: DOE^JANE\nPatient:=DOE^JANE")
    with pytest.raises(Unreadable) as caught:
        read_volume(path)
    out, err = capfd.readouterr()
    assert "DOE" not in str(caught.value) + out + err
