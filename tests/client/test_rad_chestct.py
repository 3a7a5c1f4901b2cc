"""RAD-ChestCT as its authors' code stores it: clipped Hounsfield units on axes of their own."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctclip_client import Unreadable, read_volume
from ctclip_client.contract import Geometry
from ctclip_export.samples.phantom import chest_phantom

from ..nifti_files import chest
from ..volume_files import save_rad_chestct


def test_the_axes_are_turned_as_the_authors_have_them(tmp_path: Path) -> None:
    """By hand: the first axis flipped, then transposed (0, 2, 1)."""
    path = save_rad_chestct(tmp_path / "trn00001.npz", chest())
    with np.load(path) as arrays:
        stored = arrays["ct"]
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, stored[::-1].transpose(0, 2, 1))
    np.testing.assert_array_equal(volume.voxels, chest().clip(-1000, 1000))
    assert (volume.spacing_mm, volume.rescale) == ((0.8, 0.8, 0.8), (1.0, 0.0))
    source = volume.source
    assert source.orientation == "IPL"
    assert source.turned == "z is stored axis 1 reversed, x is stored axis 3, y is stored axis 2"
    assert (source.spacing_source, source.notes) == ("RAD-ChestCT's own", ())
    assert "clipped to −1000…1000" in source.hu_source
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_air_of_exactly_minus_1000_is_no_fault(tmp_path: Path) -> None:
    """The guard counts it as clipped: here that are more than 40 % of all voxels."""
    phantom = chest_phantom(Geometry((120, 100, 100)))
    hu = (phantom.voxels * phantom.rescale[0] + phantom.rescale[1]).clip(-1000, 1000)
    hu[hu < -950] = -1000
    assert (hu == -1000).mean() > 0.4
    volume = read_volume(save_rad_chestct(tmp_path / "scan.npz", hu))
    np.testing.assert_array_equal(volume.voxels, hu.astype(np.int16))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_order_in_memory_and_packing_do_not_matter(save: Any, order: Any, tmp_path: Path) -> None:
    stored = np.asarray(chest().transpose(0, 2, 1)[::-1], order=order)
    save(tmp_path / "scan.npz", ct=stored)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.npz").voxels, chest())
    (tmp_path / "scan.npz").rename(tmp_path / "scan")  # the content decides, not the name
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").voxels, chest())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": chest()}, "holds 1 files, none of them ct; expected one array, ct"),
        ({"ct": chest(), "mask": chest()}, "holds 2 files, among them ct"),
        ({"ct": chest().astype(np.float32)}, "the array is float32"),
        ({"ct": chest()[0]}, r"int16 of shape \(6, 7\)"),
        ({"ct": chest()[:0]}, r"int16 of shape \(0, 6, 7\)"),
        ({"ct": np.array([{}], object)}, "the array is object"),
        ({"ct": chest() + np.int16(1024)}, "Hounsfield"),
    ],
)
def test_other_arrays_are_refused_with_what_was_found(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    np.savez_compressed(tmp_path / "scan.npz", **arrays)
    with pytest.raises(Unreadable, match=message) as caught:
        read_volume(tmp_path / "scan.npz")
    assert caught.value.remedy


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A header of 8 TB; and one whose size in the archive's table is made up."""
    path = tmp_path / "scan.npz"
    header = b"{'descr': '<i2', 'fortran_order': False, 'shape': (20000, 20000, 10000), }"
    array = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ct.npy", array + bytes(10_000))
    with pytest.raises(Unreadable, match="damaged: the array is said to have 8,000,000,000,000"):
        read_volume(path)
    save_rad_chestct(path, chest())
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2") + 24  # the unpacked size in the central directory
    content[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=r"damaged"):
        read_volume(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"}", b" ", "the header of the array is damaged"),  # tokenize.TokenError
        (b"'descr'", b"{descr'", "the header of the array is damaged"),
        (b"(5, ", b"(9999999, ", "too large: 419,999,958 voxels|damaged"),
    ],
)
def test_a_damaged_header_is_refused(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "ct.npy", chest())
    content = (tmp_path / "ct.npy").read_bytes().replace(old, new, 1)
    with zipfile.ZipFile(tmp_path / "scan.npz", "w") as archive:
        archive.writestr("ct.npy", content)
    with pytest.raises(Unreadable, match=message):
        read_volume(tmp_path / "scan.npz")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    """Packed by lzma, whose errors are its own; a member's name that is no UTF-8; gzip around."""
    path = tmp_path / "scan.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("ct.npy", bytes(100))
    with pytest.raises(Unreadable, match="compressed by method 14 of zip"):
        read_volume(path)
    save_rad_chestct(path, chest())
    packed = path.read_bytes()
    content = bytearray(packed)
    at = content.rindex(b"PK\1\2")
    content[at + 9] |= 8  # the name is UTF-8
    content[at + 46] = 0xFF
    path.write_bytes(content)
    with pytest.raises(Unreadable, match="damaged archive"):
        read_volume(path)
    path.write_bytes(gzip.compress(packed))
    with pytest.raises(Unreadable, match="zip archive, packed by gzip"):
        read_volume(path)
