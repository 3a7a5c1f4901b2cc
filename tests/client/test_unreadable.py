"""Damaged and foreign files end in one sentence of cause and one of remedy, never a traceback."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctclip_client import Unreadable, Volume, read_volume

from ..nifti_files import chest, edit, save


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return save(tmp_path / "scan.nii", chest())


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return save(tmp_path / "scan.nii.gz", chest())


def zipped() -> bytes:
    room = io.BytesIO()
    with zipfile.ZipFile(room, "w") as archive:
        archive.writestr("1.dcm", b"")
    return room.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.nii", b"", "empty"),
        ("text.nii", b"no scan" * 200, "not a CT file"),
        ("text.nii.gz", b"no scan" * 200, "named .gz but not gzip"),
        ("short.nii", b"\x5c\x01\0\0", "Analyze"),
        ("packed.nii.gz", gzip.compress(b"no scan" * 200, mtime=0), "not a CT file"),
        ("twice.nii.gz", gzip.compress(gzip.compress(b"no scan", mtime=0), mtime=0), "gzip twice"),
        ("nothing.nii.gz", gzip.compress(b"", mtime=0), "not a CT file"),
        ("1.dcm", b"\0" * 128 + b"DICM" + b"\0" * 100, "without SeriesInstanceUID, or cut short"),
        ("scan.nrrd", b"NRRD0005\n", "damaged header, which does not end"),
        ("scan.mha", b"ObjectType = Image\n", "damaged header, which does not end"),
        ("scan.mhd", b"NDims = 3\n", "damaged header, which does not end"),
        ("scan.zip", zipped(), "1.dcm: the file is empty"),
        ("scan.hdr", b"\0" * 344 + b"ni1\0", "half of a NIfTI pair"),
    ],
)
def test_other_files_are_called_by_name(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=message) as caught:
        read_volume(path)
    assert str(path) in caught.value.cause
    assert caught.value.remedy


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        read_volume(tmp_path / "absent.nii")
    with pytest.raises(Unreadable, match="folder without a DICOM image"):
        read_volume(tmp_path)
    with pytest.raises(Unreadable):
        read_volume(tmp_path / "scan.nii" / "inside")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": (3, 0, 7, 5, 1, 1, 1, 1)}, "damaged header: dim"),
        ({"dim": (3, -6, 7, 5, 1, 1, 1, 1)}, "damaged header: dim"),
        ({"dim": (0, 6, 7, 5, 1, 1, 1, 1)}, "damaged header: dim"),
        ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "cut short: the header promises"),
        ({"datatype": 32}, "voxels of type complex64"),
        ({"datatype": 128}, "voxels of type"),
        ({"datatype": 1536}, "voxels of type|datatype 1536"),
        ({"datatype": 77}, "datatype 77 is none"),
        ({"vox_offset": 352.5}, "vox_offset is 352.5"),
        ({"vox_offset": float("nan")}, "vox_offset is nan"),
        ({"scl_slope": float("inf")}, "slope is inf"),
        ({"scl_slope": 1, "scl_inter": float("nan")}, "intercept is nan"),
    ],
)
def test_damaged_headers(fields: dict[str, object], message: str, plain: Path) -> None:
    fields = {"sform_code": 1, "qform_code": 0, **fields}
    with pytest.raises(Unreadable, match=message):
        read_volume(edit(plain, **fields))


def test_what_is_no_file_is_called_by_name(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for, and a device has no end."""
    fifo, link, circle = tmp_path / "fifo", tmp_path / "link", tmp_path / "circle"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    circle.symlink_to(circle)
    end, other = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        expected = {
            fifo: "a pipe", link: "a pipe", Path(f"/dev/fd/{end}"): "a pipe",
            tmp_path / "socket": "a socket", Path("/dev/null"): "a device",
            Path("/dev/zero"): "a device", circle: "symbolic links",
            tmp_path / ("n" * 300): "too long", Path("nul\0byte"): "no name of a file",
        }  # fmt: skip
        for path, words in expected.items():
            with pytest.raises(Unreadable, match=words) as caught:
                read_volume(path)
            assert caught.value.remedy
    os.close(end)
    os.close(other)


def test_gzip_is_read_as_gunzip_reads_it(plain: Path, tmp_path: Path) -> None:
    """Several members, empty ones, padding and other bytes behind; never a damaged member."""
    content = plain.read_bytes()
    whole, empty = gzip.compress(content), gzip.compress(b"")
    split = [gzip.compress(content[:n]) + gzip.compress(content[n:]) for n in (1, 348, 360, 700)]
    path = tmp_path / "scan.nii.gz"
    for members in (
        whole,
        *split,
        empty + whole,
        whole + empty,
        bytes(9).join((*split[:1], empty)),
    ):
        for behind in (
            b"",
            b"\0",
            bytes(512),
            bytes(300_000),
            b"x",
            b"\x1f",
            b"junk" * 999,
            b"\0x",
        ):
            path.write_bytes(members + behind)
            np.testing.assert_array_equal(read_volume(path).voxels, chest())
    padded = gzip.compress(content[:400]) + bytes(512) + gzip.compress(content[400:])
    path.write_bytes(padded)
    np.testing.assert_array_equal(read_volume(path).voxels, chest())
    damaged = bytearray(empty)
    damaged[-6] ^= 1
    for members in (
        whole + b"\x1f\x8bjunk", whole + empty[:-1], whole + bytes(damaged), whole + whole[:50],
        split[1][:-1], gzip.compress(content[:400]) + b"junk" + gzip.compress(content[400:]),
    ):  # fmt: skip
        path.write_bytes(members)
        with pytest.raises(Unreadable, match=r"damaged|cut short"):
            read_volume(path)


def test_every_truncation_is_told(plain: Path, packed: Path) -> None:
    for path in (plain, packed):
        content = path.read_bytes()
        for length in range(0, len(content), 7):
            path.write_bytes(content[:length])
            with pytest.raises(Unreadable):
                read_volume(path)


def test_a_flipped_bit_fails_the_checksum(packed: Path) -> None:
    """Also in the last bytes, which nobody needs for the voxels."""
    content = bytearray(packed.read_bytes())
    for position in (len(content) // 2, len(content) - 6):
        damaged = bytearray(content)
        damaged[position] ^= 1
        packed.write_bytes(damaged)
        with pytest.raises(Unreadable, match="damaged"):
            read_volume(packed)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=st.dictionaries(st.integers(0, 351), st.integers(0, 255), min_size=1, max_size=6))
def test_any_damage_to_the_header_is_read_or_refused(damage: dict[int, int], plain: Path) -> None:
    original = save(plain, chest()).read_bytes()
    content = bytearray(original)
    for position, value in damage.items():
        content[position] = value
    plain.write_bytes(content)
    outcome: Volume | None = None
    with contextlib.suppress(Unreadable):
        outcome = read_volume(plain)
    assert outcome is None or 0 not in outcome.voxels.shape
