"""Which series of a folder is a scan, and how many scans a folder holds."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.dataset import Dataset

from ctclip_client import InvalidInput, Unreadable, read_volume
from ctclip_client.batch.names import Names
from ctclip_client.cli.program import main
from ctclip_client.readers.dicom import look
from ctclip_client.readers.find import find_scans

from ..dicom_files import enhanced, moved, only, slices, tags, uid, write, write_file
from .test_dicom import STORED, THIN, refused, same


def localizer(data: Dataset, n: int) -> None:
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def projection(data: Dataset, n: int) -> None:
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]


def capture(data: Dataset, n: int) -> None:
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


def report(data: Dataset, n: int) -> None:
    data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.88.67", "SR"
    del data.PixelData


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only. What a PACS writes: everything of a study, below each other, and a DICOMDIR."""
    root = tmp_path_factory.mktemp("study") / "disc"
    thick, thin = STORED, THIN
    for number, (stored, step_mm, change) in enumerate(
        [
            (STORED[:2], 2.5, localizer), (thick, 5.0, None), (thin, 1.25, None),
            (thin, 1.0, projection), (thin[:19], 0.5, None), (thin[:2], 1.0, capture),
            (thin[:1], 1.0, report), (thin, 0.6, moved(lambda n: (0, 0, n * n))),
        ], 1,
    ):  # fmt: skip
        data = slices(stored, (step_mm, 0.7, 0.8), series=number, change=change)
        write(root / "IMAGES" / f"S{number}", data)
    data = slices(thin, (1.0, 0.7, 0.8), "LI", series=9)
    write(root / "IMAGES" / "S9", data)
    shutil.copy(Path(pydicom.__file__).parent / "data/test_files/dicomdirtests/DICOMDIR", root)
    (root / "AUTORUN.INF").write_text("[autorun]")
    return root


def test_the_thinnest_axial_series_is_taken(disc: Path) -> None:
    for path in (disc, disc / "DICOMDIR"):
        volume = read_volume(path)
        assert (volume.source.series, volume.voxels.shape[0]) == (uid(3), 24)
        (note,) = volume.source.notes
        assert note.startswith(f"Series {uid(3)} was taken of 3 (axial first, then the smallest")
    found = {series.uid: series.left_out for series in look(disc).series}
    expected = {
        uid(3): "", uid(2): "", uid(9): "", uid(1): "localizer", uid(4): "intensity projection",
        uid(5): "fewer than 20", uid(6): "secondary capture", uid(7): "structured report",
        uid(8): "not evenly spaced",
    }  # fmt: skip
    assert list(found)[:3] == [uid(3), uid(2), uid(9)]
    assert found.keys() == expected.keys()
    for each, words in expected.items():
        assert bool(words) == bool(found[each])
        assert words in found[each]
    (scan,) = find_scans(disc)
    assert scan.series == uid(3)
    assert scan.path == disc / "IMAGES"
    assert read_volume(scan.path, series=scan.series).source.notes == (note,)
    files = list((scan.path / "S3").iterdir())
    assert scan.size_bytes == sum(path.stat().st_size for path in files)
    assert scan.mtime_ns == max(path.stat().st_mtime_ns for path in files)


def test_any_series_can_be_asked_for(disc: Path) -> None:
    for number, count in ((2, 22), (4, 24)):
        volume = read_volume(disc, series=uid(number))
        assert (volume.source.series, volume.voxels.shape[0]) == (uid(number), count)
        assert len(volume.source.notes) == (number != 2)
    for number, words in ((8, "not evenly"), (6, "secondary capture")):
        refused(disc, words, uid(number))
    with pytest.raises(InvalidInput, match=rf"series \(1\.2\.3\), expected one of .*{uid(9)}"):
        read_volume(disc, series="1.2.3")
    coronal = read_volume(disc, series=uid(9))
    assert coronal.source.orientation == "LIP"
    np.testing.assert_array_equal(coronal.voxels, THIN)


def test_a_scout_in_the_same_series_is_left_out(tmp_path: Path) -> None:
    data = slices(STORED, change=only(0, localizer))
    volume = read_volume(write(tmp_path, data))
    assert volume.voxels.shape[0] == 21
    assert volume.source.notes == ("Left out of the series: 1 × localizer.",)


def test_each_study_is_one_scan(tmp_path: Path) -> None:
    """Of a flat folder, too; and one of them is not taken for the other."""
    tilt = moved(lambda n: (0, 0.5 * n, 0))
    for study, change in ((1, None), (2, None), (3, localizer), (4, tilt), (5, tilt)):
        write(tmp_path, slices(STORED, study=study, change=change), f"{study}-{{}}.dcm")
    (tmp_path / "damaged").write_bytes((tmp_path / "1-0.dcm").read_bytes()[:150])
    (tmp_path / "9.nii.gz").write_bytes(b"")
    found = list(find_scans(tmp_path))
    assert [(scan.path.name, scan.series) for scan in found] == [
        *((tmp_path.name, uid(study=study)) for study in (1, 2, 3, 4, 5)),
        ("9.nii.gz", None), ("damaged", None),
    ]  # fmt: skip
    for scan, words in zip(found[2:5], ("localizer", "tilted", "tilted"), strict=True):
        with pytest.raises(Unreadable, match=words):
            read_volume(scan)
    assert scan.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("5-*"))
    write_file(tmp_path / "multiframe", enhanced(slices(STORED, study=6)))
    (scan,) = (scan for scan in find_scans(tmp_path) if scan.series == uid(study=6))
    assert scan.path == tmp_path / "multiframe"
    same(read_volume(scan))
    (tmp_path / "multiframe").unlink()
    refused(tmp_path, "damaged: a DICOM file without")
    for volume in (read_volume(found[0]), read_volume(tmp_path, series=uid(study=1))):
        (note,) = same(volume).source.notes
        assert note.startswith("Not read, since damaged or closed: 1 files beside")
    (tmp_path / "damaged").unlink()
    refused(tmp_path, "CT images of 5 studies")
    assert read_volume(tmp_path, series=uid(study=2)).source.series == uid(study=2)
    with pytest.raises(Unreadable, match="without a scan"):
        list(find_scans(write(tmp_path / "mr", slices(STORED, change=capture))))


def test_a_study_among_others_is_not_searched_for_again(tmp_path: Path) -> None:
    """Thousands of studies in one folder: each file is looked at twice, not thousands of times."""
    for study in (1, 2):
        write(tmp_path / "all", slices(STORED, study=study), f"{study}-{{}}")
    write(tmp_path / "apart", slices(STORED, study=3))
    (tmp_path / "all" / "README").symlink_to("nothing")
    first, second, apart = (scan for scan in find_scans(str(tmp_path)) if scan.series)
    for path in (tmp_path / "all").glob("2-*"):
        path.write_bytes(b"no DICOM any more")
    same(read_volume(first))
    with pytest.raises(Unreadable, match="2-0"):
        read_volume(second)
    next((tmp_path / "apart").iterdir()).unlink()
    with pytest.raises(Unreadable, match="No such file"):
        read_volume(apart)
    assert pickle.loads(pickle.dumps(apart)) == apart  # noqa: S301 (of this test)


def test_what_cannot_be_read_may_be_half_of_a_scan(tmp_path: Path) -> None:
    """A run over a folder scores no scan that `read_volume` refuses for the same folder."""
    for path in sorted(write(tmp_path / "1", slices(np.concatenate([STORED] * 2))).iterdir())[:22]:
        path.write_bytes(path.read_bytes()[:400])
    refused(tmp_path / "1", "damaged|cut short")
    found = [scan for scan in find_scans(tmp_path) if scan.series]
    assert len(found) == 1
    with pytest.raises(Unreadable, match=r"damaged|cut short"):
        read_volume(found[0])


def test_a_scan_and_a_series_agree(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    for series in (1, 2):
        write(folder, slices(STORED, series=series), f"{series}-{{}}")
    packed = Path(shutil.make_archive(str(tmp_path / "two"), "zip", folder))
    (scan,) = find_scans(packed)
    assert read_volume(scan, series=uid(2)).source.series == uid(2)
    (scan,) = find_scans(folder)
    assert read_volume(scan, series=uid(1)).source.series == uid(1)
    with pytest.raises(InvalidInput, match="another series than the scan"):
        read_volume(scan, series=uid(2))
    with pytest.raises(Unreadable, match="absent: No such file"):
        next(find_scans(tmp_path / "absent"))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that cannot be read")
def test_what_cannot_be_looked_into_costs_no_other_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without permission, a link to nothing (git-annex, DVC), a bad sector."""
    for study in (1, 2):
        write(tmp_path / f"{study}", slices(STORED, study=study))
    write(tmp_path / "locked", slices(STORED, study=3))
    (tmp_path / "away.nii.gz").symlink_to("nothing")
    (tmp_path / "2" / "sector").symlink_to("/proc/self/mem")  # a regular file that gives EIO
    listed = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = {scan.path.name: scan for scan in find_scans(tmp_path)}
    assert list(found) == ["1", "2", "sector", "away.nii.gz", "locked"]
    assert same(read_volume(found["1"])).source.notes == ()
    refused(tmp_path / "2", "sector: Input/output error")
    for name, words in (
        ("2", "Input/output error"), ("sector", "Input/output error"),
        ("away.nii.gz", "a link to a file that is not there"), ("locked", "Permission denied"),
    ):  # fmt: skip
        with pytest.raises(Unreadable, match=f"{name}.*: {words}") as caught:
            read_volume(found[name])
        assert caught.value.remedy
    assert main(["series", str(tmp_path)]) == 0


def test_identifiers_of_anonymous_data_need_not_be_uids(tmp_path: Path) -> None:
    """They still tell series and studies apart, and are not repeated: they may be names."""
    for n, series in enumerate(("ID_5f8484c3e0", "a" * 64, "DOE-JOHN")):
        change = tags(SeriesInstanceUID=series, StudyInstanceUID="6897fa9de148")
        with config.disable_value_validation():
            step_mm = 1.0 if n == 1 else 2.5
            data = slices(STORED, (step_mm, 0.7, 0.8), change=change)
            write(tmp_path, data, f"{n}-{{}}")
    taken, other = (hashlib.sha256(each).hexdigest() for each in (b"a" * 64, b"DOE-JOHN"))
    assert read_volume(tmp_path).source.series == taken
    (scan,) = find_scans(tmp_path)
    assert scan.series == taken == Names(True).series(taken)
    for asked in ("DOE-JOHN", other):
        assert read_volume(tmp_path, series=asked).source.series == other
    with pytest.raises(InvalidInput) as caught:
        read_volume(tmp_path, series="DOE-JANE")
    assert "DOE" not in str(caught.value)


def test_what_is_no_scan_is_called_by_what_it_is(tmp_path: Path) -> None:
    """And only what can be read is offered by --series."""
    frontal = slices(STORED[:2], change=localizer)
    frontal[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    for name, data, words in (
        ("scout", frontal[:1], "no series to take: localizer"),
        ("scouts", frontal, "no series to take: localizer"),
        (
            "mr",
            slices(STORED, change=tags(SOPClassUID="1.2.840.10008.5.1.4.1.1.4")),
            "no CT image",
        ),
    ):
        error = refused(write(tmp_path / name, data), words)
        assert "--series" not in error.remedy
        assert "CT series of many slices" in error.remedy
    error = refused(write(tmp_path / "few", slices(STORED[:19])), "fewer than 20")
    assert f"--series {uid()} takes this one" in error.remedy


def test_a_slice_that_is_cut_anywhere_is_missed(tmp_path: Path) -> None:
    """Also within its UIDs, where half of one would be another series, or another kind of file."""
    last = sorted(write(tmp_path, slices(STORED)).iterdir())[0]
    content = last.read_bytes()
    for size in (0, *range(132, content.index(b"\xe0\x7f\x10\x00"), 7)):
        last.write_bytes(content[:size])
        refused(tmp_path, r"damaged|cut short|without a tag|empty file")
    last.unlink()
    (tmp_path / "done.flag").touch()
    assert len(read_volume(tmp_path).voxels) == 21
