"""An archive is read as what is in it, and nothing in it reaches beyond its own folder."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctclip_client import InvalidInput, Unreadable, read_volume
from ctclip_client.readers import archive
from ctclip_client.readers.find import find_scans

from ..dicom_files import slices, uid, write
from ..nifti_files import chest, save

STORED = chest((20, 6, 7)) + np.int16(1024)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where archives are unpacked."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def packed(folder: Path, path: Path) -> Path:
    """A folder or a file, as the suffix says."""
    files = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    root = folder if folder.is_dir() else folder.parent
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for each in files:
                file.write(each, each.relative_to(root))
    else:
        with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
            for each in files:
                tar.add(each, each.relative_to(root), recursive=False)
    return path


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """Two series, and what lies beside them."""
    root = tmp_path / "disc"
    for number in (1, 2):
        write(root / "DICOM" / f"{number}", slices(STORED, (2.0 + number, 1, 1), series=number))
    (root / "viewer.jar").write_bytes(b"PK\3\4 and so on")
    return root


@pytest.mark.parametrize("name", ["scan.zip", "scan.tar.gz", "scan"])
def test_a_packed_disc(name: str, disc: Path, tmp_path: Path, temporary: Path) -> None:
    path = packed(disc, tmp_path / (name if name != "scan" else "scan.zip"))
    path = path.rename(tmp_path / name)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, STORED)
    assert (volume.source.series, volume.source.path) == (uid(1), str(path))
    assert volume.source.sha256 == read_volume(disc).source.sha256
    assert str(temporary) not in repr(volume.source)
    assert read_volume(path, series=uid(2)).spacing_mm[0] == 4
    with pytest.raises(InvalidInput, match=f"expected one of {uid(1)}"):
        read_volume(path, series="1.2")
    assert [(scan.path, scan.series) for scan in find_scans(path)] == [(path, None)]
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_one_file_of_another_format(suffix: str, tmp_path: Path, temporary: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.txt").write_text("a scan")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._scan.nii.gz").write_bytes(b"\0\5\x16\7")
    save(folder / "scan.nii.gz", chest(), codes="RAS")
    path = packed(folder, tmp_path / f"packed{suffix}")
    np.testing.assert_array_equal(read_volume(path).voxels, chest())
    save(folder / "other.nii", chest())
    with pytest.raises(Unreadable, match="2 CT files in 3") as caught:
        read_volume(packed(folder, path))
    assert "Unpack it yourself" in caught.value.remedy
    assert not list(temporary.iterdir())


def test_errors_are_told_of_the_archive(tmp_path: Path, temporary: Path) -> None:
    data = slices(STORED)
    data[3].PixelSpacing = [1, 2]
    path = packed(write(tmp_path / "series", data), tmp_path / "a b.zip")
    with pytest.raises(Unreadable, match="PixelSpacing differs") as caught:
        read_volume(path)
    assert f"{path}/IM" in caught.value.cause
    assert str(temporary) not in str(caught.value)
    assert not list(temporary.iterdir())


def _zip(*members: tuple[str, bytes], change: Any = None, method: int = zipfile.ZIP_DEFLATED):  # type: ignore[no-untyped-def]
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members:
                info = zipfile.ZipInfo(name)
                info.compress_type = method
                if change is not None:
                    change(info)
                file.writestr(info, content)

    return make


def _tar(  # type: ignore[no-untyped-def]
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", nbytes: int = 0, count: int = 1
):
    def make(path: Path) -> None:
        with tarfile.open(path, "w") as file:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, nbytes
            for _ in range(count):
                file.addfile(info, io.BytesIO(bytes(nbytes)))

    return make


def _nested() -> bytes:
    room = io.BytesIO()
    with zipfile.ZipFile(room, "w") as file:
        file.writestr("1.dcm", b"")
    return room.getvalue()


def _encrypted(path: Path) -> None:
    _zip(("1.dcm", b"x" * 99))(path)
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(magic) + offset] |= 1
    path.write_bytes(content)


def _link(info: zipfile.ZipInfo) -> None:
    info.external_attr = 0o120777 << 16


HOSTILE = {
    "up": (_zip(("../evil", b"x")), "a file in the archive is a path that leads out"),
    "up on Windows": (_zip(("a\\..\\..\\evil", b"x")), "leads out"),
    "absolute": (_zip(("/evil-ctclip", b"x")), "leads out"),
    "drive": (_zip(("C:/evil", b"x")), "leads out"),
    "link": (_zip(("link", b"/etc/passwd"), change=_link), "is a link"),
    "tar up": (_tar("../../evil"), "leads out"),
    "tar absolute": (_tar("/evil-ctclip"), "leads out"),
    "tar link": (_tar("link", tarfile.SYMTYPE, "/etc/passwd"), "a link, a device or a pipe"),
    "tar hard link": (_tar("link", tarfile.LNKTYPE, "/etc/passwd"), "a link, a device"),
    "tar device": (_tar("null", tarfile.CHRTYPE), "a link, a device"),
    "tar pipe": (_tar("pipe", tarfile.FIFOTYPE), "a link, a device"),
    "nested": (_zip(("scan.zip", _nested())), "an archive in an archive"),
    "encrypted": (_encrypted, "encrypted"),
    "an unusual method": (_zip(("1.dcm", b"x"), method=zipfile.ZIP_LZMA), "by method 14"),
    "nothing": (_zip(), "no CT files in 0"),
    "no scan": (_zip(("a.txt", b"x"), ("b.txt", b"x")), "no CT files in 2"),
    "twice": (_zip(("a", b"x"), ("./a", b"y")), "two files of one name"),
    "a file as a folder": (_zip(("a", b"x"), ("a/b", b"y")), "cannot be unpacked"),
    "bomb": (_zip(*((f"{n}", bytes(1 << 20)) for n in range(9))), "more than 100 times"),
    "a long name": (_tar("x", tarfile.GNUTYPE_LONGNAME, nbytes=2 << 20), "more than 1 MiB"),
    "a long header": (_tar("x", tarfile.XHDTYPE, nbytes=2 << 20), "header of more than 1 MiB"),
    "many folders": (_tar("x", tarfile.DIRTYPE, count=21), "more than 20 files and folders"),
    "many": (_zip(*((f"{n}", b"") for n in range(21))), "more than 20 files"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_traps(name: str, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_FREE_BYTES", 1 << 22)
    monkeypatch.setattr(archive, "MOST_MEMBERS", 20)
    make, words = HOSTILE[name]
    path = tmp_path / "scan.zip"
    make(path)
    with pytest.raises(Unreadable, match=words) as caught:
        read_volume(path)
    assert str(path) in caught.value.cause
    assert caught.value.remedy
    assert not list(temporary.iterdir())
    assert not list(tmp_path.rglob("evil"))
    assert not Path("/evil-ctclip").exists()


def test_an_interrupted_reading_leaves_nothing(tmp_path: Path) -> None:
    """Whatever ends the program, but for SIGKILL."""
    path = packed(write(tmp_path / "series", slices(STORED)), tmp_path / "scan.zip")
    place = tmp_path / "place"
    place.mkdir()
    program = (
        "import sys; from pathlib import Path; from ctclip_client.readers.registry import *\n"
        "p = Path(sys.argv[1]); found = format_of(p).series(p); print(found[0].uid)\n"
        "raise KeyboardInterrupt"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False,
        env={**os.environ, "TMPDIR": str(place)},
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode != 0) == (uid(1), True)
    assert not list(place.iterdir())


def test_any_damage_is_refused_or_harmless(tmp_path: Path, temporary: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    series = write(tmp_path / "series", slices(STORED[:3]))
    for name in ("scan.zip", "scan.tar.gz", "scan.tar"):
        path = packed(series, tmp_path / name)
        whole = path.read_bytes()
        for _ in range(30):
            content = bytearray(whole)
            if chance.random() < 0.3:
                del content[chance.randrange(len(content)) :]
            for _ in range(chance.choice((1, 1, 5, 50))):
                if content:
                    content[chance.randrange(len(content))] = chance.randrange(256)
            path.write_bytes(content)
            with suppress(InvalidInput):
                assert read_volume(path, series=uid()).voxels.shape[1:] == (6, 7)
    assert not list(temporary.iterdir())
