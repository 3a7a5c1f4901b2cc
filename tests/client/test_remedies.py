"""Commands that are printed to mend a file do mend it, wherever it lies."""

from __future__ import annotations

import gzip
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ctclip_client import Unreadable, Volume, read_volume
from ctclip_client.readers.remedies import fixed

from ..nifti_files import chest, edit, save


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / 'a scan\'s $HOME "folder" ü'
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


def commands(path: Path) -> list[list[str]]:
    """What is to be typed, as the remedy says it, in the words that a shell makes of it."""
    with pytest.raises(Unreadable) as caught:
        read_volume(path)
    starts = [
        match.start() for match in re.finditer(re.escape(sys.executable), caught.value.remedy)
    ]
    assert starts
    return [_first_words(caught.value.remedy[start:]) for start in starts]


def _first_words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return [lexer.get_token() or "" for _ in range(3)]


def followed(command: list[str], **options: object) -> Volume:
    """Run it, in this process since nibabel is here already, and read what it wrote."""
    assert command[:2] == [sys.executable, "-c"]
    Path("scan.fixed.nii.gz").unlink(missing_ok=True)  # of the other one of two commands
    exec(command[2], {})  # noqa: S102 (it is ours)
    return read_volume("scan.fixed.nii.gz", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_either_side_of_a_contradiction_can_be_taken(suffix: str, folder: Path) -> None:
    stored = chest() + np.int16(1024)
    path = save(folder / "scan.nii", stored)
    edit(path, sform_code=1, qform_code=1, srow_x=(0.7, 0, 0, 0), scl_slope=1, scl_inter=-1024)
    if suffix == ".nii.gz":
        path = path.rename(folder / "plain.nii")
        packed = folder / "scan.nii.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    by_sform, by_qform = map(followed, commands(path))
    assert (by_sform.source.orientation, by_qform.source.orientation) == ("RPS", "LPS")
    np.testing.assert_array_equal(by_qform.voxels, stored)
    np.testing.assert_array_equal(by_sform.voxels, stored[:, ::-1])
    assert by_sform.rescale == by_qform.rescale == (1.0, -1024.0)
    assert by_sform.spacing_mm == by_qform.spacing_mm == (2.5, 0.7, 0.8)


def test_either_spacing_can_be_taken(folder: Path) -> None:
    path = edit(save(folder / "scan.nii", chest()), sform_code=1, srow_x=(-0.9, 0, 0, 0))
    by_affine, by_pixdim = map(followed, commands(path))
    assert by_affine.spacing_mm == (2.5, 0.9, 0.8)
    assert by_pixdim.spacing_mm == (2.5, 0.7, 0.8)


@pytest.mark.parametrize(
    "fields",
    [
        {"sform_code": 1, "qform_code": 1, "srow_x": (float("nan"),) * 4},
        {"sform_code": 1, "qform_code": 2, "srow_x": (1, 0, 0, 0), "srow_y": (0, 1, 0, 0),
         "srow_z": (0, 0, 1, 0)},
        {"sform_code": 9, "qform_code": 0},
        {"sform_code": 0, "qform_code": 9},
    ],
    ids=["damaged sform", "blank sform", "sform of no known space", "qform of no known space"],
)  # fmt: skip
def test_what_is_left_of_an_orientation_can_be_taken(
    fields: dict[str, object], folder: Path
) -> None:
    (command,) = commands(edit(save(folder / "scan.nii", chest()), **fields))
    volume = followed(command)
    np.testing.assert_array_equal(volume.voxels, chest())
    assert (volume.source.orientation, volume.source.notes) == ("LPS", ())


@pytest.mark.parametrize("further", [(2,), (1, 3)])
def test_one_volume_can_be_taken_out(further: tuple[int, ...], folder: Path) -> None:
    volumes = np.zeros((6, 7, 5, *further), np.int16)
    volumes[:, :, :, *(0 for _ in further)] = chest().transpose(1, 2, 0)
    path = folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volumes, np.diag([-0.7, -0.8, 2.5, 1])), path)
    (command,) = commands(path)
    np.testing.assert_array_equal(followed(command).voxels, chest())


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair_becomes_one_file(kind: type[nibabel.Nifti1Pair], folder: Path) -> None:
    image = kind(chest().transpose(1, 2, 0), np.diag([-0.7, -0.8, 2.5, 1]))
    nibabel.save(image, folder / "scan.img")
    (command,) = commands(folder / "scan.hdr")
    volume = followed(command)
    np.testing.assert_array_equal(volume.voxels, chest())
    assert volume.source.orientation == "LPS"


def test_analyze_gets_no_orientation_from_nowhere(folder: Path) -> None:
    image = nibabel.AnalyzeImage(chest().transpose(1, 2, 0), np.diag([-0.7, 0.8, 2.5, 1]))
    nibabel.save(image, folder / "scan.img")
    (command,) = commands(folder / "scan.hdr")
    volume = followed(command, as_stored=True, spacing_mm=(2.5, 0.7, 0.8))
    np.testing.assert_array_equal(volume.voxels, chest())
    with pytest.raises(Unreadable, match="orientation"):
        read_volume("scan.fixed.nii.gz")


def test_gzip_twice_can_be_unpacked_once(folder: Path) -> None:
    path = folder / "scan.nii.gz"
    path.write_bytes(gzip.compress(save(folder / "inner.nii.gz", chest()).read_bytes()))
    with pytest.raises(Unreadable) as caught:
        read_volume(path)
    subprocess.run(["/bin/sh", "-c", caught.value.remedy.partition(": ")[2]], check=True)
    np.testing.assert_array_equal(read_volume("scan.fixed.nii.gz").voxels, chest())


def test_a_command_needs_no_path_and_writes_over_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an environment that nobody has activated, beside the scan, for the second time."""
    monkeypatch.chdir(tmp_path)
    path = edit(save(tmp_path / "scan.nii", chest()), sform_code=9, qform_code=0)
    with pytest.raises(Unreadable) as caught:
        read_volume(path)
    command = shlex.join(_first_words(caught.value.remedy[caught.value.remedy.index(sys.prefix) :]))
    subprocess.run(["/bin/sh", "-c", command], check=True, env={"PATH": ""})
    np.testing.assert_array_equal(read_volume("scan.fixed.nii.gz").voxels, chest())
    assert fixed(path) == "scan.fixed1.nii.gz"
    assert fixed(tmp_path / "scan.fixed.nii.gz") == "scan.fixed.fixed.nii.gz"
