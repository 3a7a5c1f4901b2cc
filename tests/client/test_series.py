"""`ctclip series` lists what lies at a path; descriptions are for the terminal alone."""

from __future__ import annotations

import contextlib
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import config
from pydicom.dataset import Dataset

from ctclip_client import InvalidInput, Unreadable, read_volume
from ctclip_client.cli.program import main

from ..dicom_files import slices, uid, write
from ..nifti_files import chest, save

STORED = chest((20, 6, 7)) + 1024
MARKER = "MARKER^OF^PATIENT"


def listed(path: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["series", str(path), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def localizer(data: Dataset, n: int) -> None:
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two studies, a NIfTI file and a damaged file; links, and what macOS leaves."""
    root = tmp_path / "scans"
    write(root / "1", slices(STORED, (3.0, 0.7, 0.8)))
    write(root / "2", slices(STORED, (2.0, 0.7, 0.8), series=2))
    write(root / "3", slices(STORED[:2], series=3, change=localizer))
    (root / "4").symlink_to(write(tmp_path / "elsewhere", slices(STORED, study=2)))
    (root / "circle").symlink_to(root)
    (root / "._scan.nii.gz").write_bytes(b"\0\5\x16\7")
    save(root / "scan.nii.gz", chest())
    (root / "1" / "damaged").write_bytes((root / "1" / "IM0000").read_bytes()[:150])
    return root


def test_a_row_for_each_series(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(folder, capsys)
    assert rows[0] == {
        "path": str(folder), "series": uid(2), "study": 1, "images": 20, "matrix": [7, 6],
        "step_mm": 2.0, "extent_mm": 40.0, "left_out": "", "taken": True,
    }  # fmt: skip
    found = [(row["series"], row["study"], row["taken"], row["left_out"][-9:]) for row in rows]
    assert found == [
        (uid(2), 1, True, ""), (uid(study=2), 2, True, ""), (uid(1), 1, False, ""),
        (uid(3), 1, False, "localizer"), (None, None, False, "before it"), (None, None, True, ""),
    ]  # fmt: skip
    assert [row["path"] for row in rows[-2:]] == [
        str(folder / "1" / "damaged"), str(folder / "scan.nii.gz")
    ]  # fmt: skip


def test_the_table_shows_all_of_a_uid(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["series", str(folder)]) == 0
    text = capsys.readouterr().out
    for words in (
        "1*",
        "2*",
        "localizer",
        "a file, not looked into",
        f"--series {uid(2)}\n",
        "Several studies",
    ):
        assert words in text


def test_archives_files_and_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scan.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (folder / "2").iterdir():
            archive.write(file, file.name)
        archive.write(folder / "1" / "damaged", "other/damaged")
    row, other = listed(path, capsys)
    assert other["path"] == str(path / "other/damaged")
    assert other["left_out"].startswith(f"{path}/other/damaged: ")
    assert (row["path"], row["series"], row["taken"]) == (str(path), uid(2), True)
    assert [row["path"] for row in listed(folder / "scan.nii.gz", capsys)] == [
        str(folder / "scan.nii.gz")
    ]
    assert [row["taken"] for row in listed(folder / "3", capsys)] == [False]
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, tmp_path / "absent"):
        assert main(["series", str(path)]) == 2
        assert "error: " in capsys.readouterr().err


def marked(data: Dataset, n: int) -> None:
    """Every kind of free text, as a careless scanner or a person fills it in."""
    for name in (
        "PatientName", "PatientID", "PatientComments", "StudyDescription", "SeriesDescription",
        "ProtocolName", "InstitutionName", "AccessionNumber", "ConvolutionKernel", "StudyID",
        "ImageComments", "ReferringPhysicianName", "StationName", "BodyPartExamined",
    ):  # fmt: skip
        setattr(data, name, MARKER)
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", MARKER]
    block = data.private_block(0x0009, MARKER, create=True)
    block.add_new(1, "LO", MARKER)


def _also(**tags: Any) -> Callable[[Dataset, int], None]:
    def change(data: Dataset, n: int) -> None:
        marked(data, n)
        if n == 3:
            for name, value in tags.items():
                data.add_new(name, "LO" if value == MARKER else data[name].VR, value)

    return change


@pytest.mark.parametrize(
    "tags",
    [
        {}, {"RescaleType": MARKER}, {"Modality": MARKER}, {"PhotometricInterpretation": MARKER},
        {"ImageType": MARKER}, {"SeriesInstanceUID": MARKER}, {"SOPClassUID": MARKER},
        {"StudyInstanceUID": MARKER}, {"PixelSpacing": MARKER}, {"ImagePositionPatient": MARKER},
        {"RescaleSlope": MARKER}, {"Rows": MARKER}, {"RescaleIntercept": 3},
    ],
    ids=lambda tags: "".join(tags) or "a good scan",
)  # fmt: skip
def test_nothing_of_a_header_is_told(
    tags: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither by a volume nor by an error, and on the terminal alone by `ctclip series`."""
    with config.disable_value_validation():
        path = write(tmp_path / "scan", slices(STORED, change=_also(**tags)))
    said = []
    try:
        volume = read_volume(path)
        said += [repr(volume.source), repr(volume.recipe())]
    except InvalidInput as error:
        said += [repr(error), str(error), repr(error.__cause__), repr(error.__context__)]
    with contextlib.suppress(Unreadable):
        main(["series", str(path), "--json"])
    out, err = capfd.readouterr()
    assert out
    assert ("no valid UID" in "".join(said)) == ("SeriesInstanceUID" in tags)
    for text in (*said, out, err, caplog.text):
        assert "MARKER" not in text
    if not tags:
        assert main(["series", str(path)]) == 0
        out = capfd.readouterr().out  # which is no terminal
        assert "MARKER" not in out
        assert "for a terminal only" in out
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda: True)
            assert main(["series", str(path)]) == 0
        assert MARKER in capfd.readouterr().out.replace("\n", "")


def test_descriptions_do_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(data: Dataset, n: int) -> None:
        data.SeriesDescription = "[red]a\x1b[2J"

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["series", str(write(tmp_path, slices(STORED, change=change)))]) == 0
    assert "[red]a\\x1b[2J" in capsys.readouterr().out
