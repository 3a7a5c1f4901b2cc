"""Odd and damaged DICOM files are read or refused: no traceback, no crash, no waste of memory."""

from __future__ import annotations

import random
import resource
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ctclip_client import InvalidInput, Unreadable, read_volume
from ctclip_client.readers.dicom import Dicom, file, header
from ctclip_client.readers.format import Options
from ctclip_client.readers.registry import format_of

from ..dicom_files import by_gdcm, enhanced, slices, uid, write, write_file
from ..nifti_files import chest

STORED = chest((3, 40, 44)) + np.int16(1024)
BUNDLED = Path(pydicom.__file__).parent / "data"
_MIB = 1 << 20


def test_odd_files_of_pydicom_one_by_one() -> None:
    """Those in its wheel: other modalities, colours, reports, no preamble, cut short, …"""
    paths = [path for path in sorted(BUNDLED.rglob("*")) if path.is_file()]
    assert len(paths) > 150
    told = set()
    for path in paths:
        if path.suffix in (".py", ".pyc"):
            continue
        with pytest.raises(Unreadable) as caught:
            read_volume(path)
        assert str(path) in caught.value.cause or path.name == "DICOMDIR"
        assert caught.value.remedy
        told.add(caught.value.cause.removeprefix(f"{path}: ").partition(" ")[0])
    assert len(told) > 4


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("test_files", "without SeriesInstanceUID|damaged"),
        ("test_files/dicomdirtests/TINY_ALPHA", "without pixel data"),
        ("test_files/dicomdirtests", "studies|pixel data"),
        ("palettes", "folder without a DICOM image"),
    ],
)
def test_folders_of_them(folder: str, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        read_volume(BUNDLED / folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("CT_small.dcm", (128, 128)), ("693_J2KI.dcm", (512, 512)),
        ("J2K_pixelrep_mismatch.dcm", (512, 512)),
    ],
)  # fmt: skip
def test_their_pixels_are_what_pydicom_decodes(name: str, shape: tuple[int, int]) -> None:
    from ctclip_client.readers.dicom.apart import frames

    image = header.read_image(BUNDLED / "test_files" / name)
    assert image is not None
    ((_, _, frame),) = frames([image])
    assert frame.shape == shape
    np.testing.assert_array_equal(frame, pydicom.dcmread(image.path).pixel_array)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut, or with a few bytes changed, often at its beginning."""
    room = bytearray(content)
    kind = chance.randrange(4)
    if kind == 0:
        return bytes(room[: chance.randrange(len(room))])
    end = len(room) if kind == 1 else min(len(room), 1000)
    for _ in range(chance.choice((1, 1, 3, 30))):
        room[chance.randrange(end)] = chance.choice((0, 255, chance.randrange(256)))
    return bytes(room)


def attempts(folder: Path, count: int) -> None:
    """Damage one file of a series at a time, and read the series."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = sorted(folder.iterdir())[0]
    whole = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        path.write_bytes(damaged(whole, chance))
        with suppress(InvalidInput):
            assert read_volume(folder, series=uid()).voxels.ndim == 3
    path.write_bytes(whole)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 300 << 10


@pytest.mark.parametrize("kind", ["plain", "multiframe", "deflated"])
def test_any_damage_is_refused_or_harmless(kind: str, tmp_path: Path) -> None:
    data = slices(STORED)
    if kind == "multiframe":
        write_file(tmp_path / "ct", enhanced(data))
    else:
        write(tmp_path, data)
    if kind == "deflated":
        for path in tmp_path.iterdir():
            again = pydicom.dcmread(path)
            again.file_meta.TransferSyntaxUID = file.DEFLATED
            again.save_as(path)
    attempts(tmp_path, 70)


@pytest.mark.slow
@pytest.mark.parametrize("syntax", ["5", "4.70", "4.80", "4.90"])
def test_any_damage_to_compressed_pixels(syntax: str, tmp_path: Path) -> None:
    folder = write(tmp_path, slices(STORED))
    for path in folder.iterdir():
        if syntax == "4.90":
            data = pydicom.dcmread(path)
            data.compress(f"1.2.840.10008.1.2.{syntax}")
            data.save_as(path)
        else:
            by_gdcm(path, f"1.2.840.10008.1.2.{syntax}")
    attempts(folder, 60)


def test_a_decoder_that_ends_its_process_or_complains_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDCM aborts where a JPEG claims to have 255 bits; where its data is damaged, libjpeg says so
    and goes on. Whatever lies in the working directory has no part in it."""
    (tmp_path / "disc").mkdir()
    monkeypatch.chdir(tmp_path / "disc")
    Path("json.py").write_text("open('started', 'w')")
    tmp_path /= "series"
    folder = write(tmp_path, slices(STORED))
    for path in folder.iterdir():
        by_gdcm(path, "1.2.840.10008.1.2.4.70")
    path = sorted(folder.iterdir())[0]
    whole = path.read_bytes()
    start = whole.index(b"\xff\xd8\xff\xc3")
    for at, damage, words in (
        (6, b"\xff", "on which its decoder gave up"),
        (600, bytes(64), "of which its decoder complained"),
        (whole.index(b"\xff" * 4) - start, b"\0\x40\0\0", "pixel data of a stated length"),
    ):
        content = bytearray(whole)
        content[start + at : start + at + len(damage)] = damage
        path.write_bytes(content)
        with pytest.raises(Unreadable, match=words) as caught:
            read_volume(folder, series=uid())
        assert str(path) in caught.value.cause
    assert not Path("started").exists()
    path.write_bytes(whole)
    for no_python in ("/bin/false", "/absent"):
        monkeypatch.setattr("sys.executable", no_python)
        with pytest.raises(Unreadable, match="could not be started"):
            read_volume(folder, series=uid())


def test_a_deflated_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "LARGEST_INFLATED_BYTES", _MIB)
    folder = write(tmp_path, slices(STORED))
    path = folder / "IM0000"
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = file.DEFLATED
    data.save_as(path)
    content = path.read_bytes()
    (length,) = np.frombuffer(content[140:144], "<u4")
    start = 144 + int(length)
    plain = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:start] + bomb.compress(plain + bytes(8 * _MIB)) + bomb.flush())
    with pytest.raises(Unreadable, match="unpacks to more than"):
        read_volume(folder, series=uid())


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"Rows": 65535, "Columns": 65535}, "expected 1 to 4096 each"),
        ({"Rows": 4000, "Columns": 4000}, "the header promises 32,000,000 bytes"),
        ({"NumberOfFrames": 5000}, "many frames with one place"),
        ({"BitsAllocated": 64}, "BitsAllocated"),
    ],
)  # fmt: skip
def test_sizes_are_compared_with_the_file(tags: dict[str, int], words: str, tmp_path: Path) -> None:
    data = slices(STORED)
    for name, value in tags.items():
        setattr(data[1], name, value)
    folder = write(tmp_path, data)
    with pytest.raises(Unreadable, match=words):
        read_volume(folder, series=uid())


def test_packed_by_gzip_once_more(tmp_path: Path) -> None:
    path = BUNDLED / "test_files" / "zipMR.gz"
    with pytest.raises(Unreadable, match="DICOM file packed by gzip"):
        read_volume(path)
    assert isinstance(format_of(path), Dicom)
    with pytest.raises(Unreadable):
        Dicom().read(path, Dicom().series(BUNDLED / "test_files" / "rtplan.dcm")[0], Options())
