"""Runs over many scans, piece by piece: plan, names, readers, and what a run may cost."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from ctclip_client import read_volume
from ctclip_client.batch import reading
from ctclip_client.batch.folders import folder_names
from ctclip_client.batch.journal import journal_of
from ctclip_client.batch.names import WITHHELD, Names
from ctclip_client.batch.plan import find, make_plan, read_list
from ctclip_client.batch.progress import pace
from ctclip_client.batch.reading import ProcessReader
from ctclip_client.batch.service import GoneError, patiently
from ctclip_client.errors import InvalidInput, ServerError, Unavailable, Unreadable
from ctclip_client.readers.find import Scan
from ctclip_client.volume import Source

from ..nifti_files import chest, copies, save

HASH = re.compile(r"^[0-9a-f]{64}$")


# --- plan ---


def test_a_plan_of_files_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.nii", "a/b/2.nii.gz", "c.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name, chest())
    (tmp_path / "a/notes.txt").write_text("no scan")
    (tmp_path / "empty").mkdir()
    plain, table = tmp_path / "list.txt", tmp_path / "list.csv"
    plain.write_text("\ufeffc.nii\n\n", "utf-8")
    table.write_text('label,Path\n0,"a/1.nii"\n1,c.nii\n')
    assert read_list(plain) == [tmp_path / "c.nii"]
    for table_by in ("path;label\nc.nii;0,5\n", "label\tPATH\n1\tc.nii\n"):
        plain.write_text(table_by)
        assert read_list(plain) == [tmp_path / "c.nii"]
    paths = [tmp_path / name for name in ("a", "c.nii", "empty", "absent", "\0")]
    names = Names()
    plan = make_plan(find([*paths, Path("c.nii")], table, None), names, lambda _: None)
    found = [str(each.path.relative_to(tmp_path)) for each in plan.scans]
    assert found == ["a/1.nii", "a/b/2.nii.gz", "c.nii", "empty", "absent", "\0"]
    assert plan.twice == 3
    assert [each.refused is None for each in plan.scans] == [True] * 3 + [False] * 3
    assert plan.size_bytes == sum((tmp_path / name).stat().st_size for name in found[:3])
    folders = folder_names(plan.scans[:3], names)
    assert [str(folder) for folder in folders.values()] == ["a/1", "a/b/2", "c"]
    hashed = folder_names(plan.scans[:3], Names(True))
    assert all(HASH.match(str(folder)) for folder in hashed.values())
    states = iter(["", "Unreadable", None])
    plan = make_plan(find(paths[:2], None, None), names, lambda _: next(states))
    assert (plan.done, plan.failed, len(plan.todo)) == (1, ("Unreadable",), 1)


@pytest.mark.parametrize("odd", ["\u2028", "\x0b", "\x0c", "\u0085", "\udcff"])
def test_a_list_names_paths_whole(odd: str, tmp_path: Path) -> None:
    """Whatever a name holds; and each path once, as there is a row for each finding in --csv."""
    listed = tmp_path / "list"
    name = f"a{odd}b.nii"
    listed.write_text(f"{name}\r\nc, d.nii\n", "utf-8", "surrogateescape", newline="")
    assert read_list(listed) == [tmp_path / name, tmp_path / "c, d.nii"]
    quoted = f'label,path\r\n1,{name}\r\n2,"c\nd.nii"\r\n3,{name}\r\n'
    listed.write_text(quoted, "utf-8", "surrogateescape", newline="")
    assert read_list(listed) == [tmp_path / name, tmp_path / "c\nd.nii"]


def test_a_list_without_its_column_is_refused_once(tmp_path: Path) -> None:
    listed, scan = tmp_path / "list", "Doe, Jane.nii"
    listed.write_text(f"{scan}\nb.nii\n")
    with pytest.raises(InvalidInput, match="no column 'path'") as raised:
        read_list(listed)
    assert "Doe" not in str(raised.value)
    (tmp_path / scan).touch()
    assert read_list(listed) == [tmp_path / scan, tmp_path / "b.nii"]


def test_a_list_that_names_series_is_told_that_they_are_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list"
    for series, said in (("1.2.3", "its column 'series' is not read"), ("", "")):
        listed.write_text(f"Path,Series\na,\nb,{series}\nc\n")
        assert read_list(listed) == [tmp_path / name for name in "abc"]
        err = capsys.readouterr().err
        assert said in err
        assert bool(said) == bool(err)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no path in it"), ("path\n", "no path in it"), ("a,path\n1\n", "a row without a path"),
        ("\0", "not a text file"), (None, "No such file"), ('path\n"a', "not a CSV"),
        ("filename,label\na.nii,1\n", "no column 'path'"), ("a," * 300, "no column 'path'"),
        ("filename\tlabel\na.nii\t1\n", "no column 'path'"),
    ],
)  # fmt: skip
def test_a_list_that_names_nothing(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "list").write_text(content)
    with pytest.raises(InvalidInput, match=said):
        read_list(tmp_path / "list")


def test_a_series_is_one_of_one_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    (one,) = find([tmp_path], None, "1.2.3")
    assert (one.series, one.size_bytes) == ("1.2.3", 2)
    with pytest.raises(InvalidInput, match="--series names one series"):
        list(find([tmp_path, tmp_path], None, "1.2.3"))
    with pytest.raises(InvalidInput, match="no scan is named"):
        list(find([], None, None))


# --- names ---


def test_hashed_names_name_nothing() -> None:
    path, uid = Path("/data/Doe_Jane/ct.nii.gz"), "1.2.840.113619.2.1"
    names = Names(True)
    hidden = sha256(os.fsencode(path)).hexdigest()
    assert names.path(path) == hidden
    assert names.series(uid) == sha256(uid.encode()).hexdigest()
    for text, expected in {
        f"{path}: the file is empty.": f"{hidden}: the file is empty.",
        f"{path}/IM 1: ends early.": f"{hidden}: ends early.",
        f"took series {uid}.": f"took series {names.series(uid)}.",
        "given: slope 1; sent as 1/32 HU, clipped to −1000…1000": None,
        f"{path}/O'Brien, Jo.dcm: no CT: 'MR'.": f"{hidden}: no CT: '…'.",
        "its voxels lie in 'Doe.raw', expected a file's name": "its voxels lie in '…', expected a "
        "file's name",
        'a link: "O\'Brien.nii"': "a link: '…'",
        "Copy /data/Doe_Jane again.": WITHHELD,
        "mv 'ct.nii.gz' away": WITHHELD,
        r"C:\Doe": WITHHELD,
    }.items():
        assert names.text(text, path) == (text if expected is None else expected)
    short = Names(True).path("1")
    for text, expected in {
        "1: slope 1 of 12.": f"{short}: slope 1 of 12.", "header: slope 1": "header: slope 1",
        "1/2: cut short, 1 of 2.": f"{short}: cut short, 1 of 2.",
    }.items():  # fmt: skip
        assert names.text(text, Path("1")) == expected
    source = Source("LPS", f"of {path}", str(path), uid, (f"took {uid}",), sha256="0" * 64)
    told = str(names.source(source, path))
    assert "Doe" not in told
    assert uid not in told
    assert "LPS" in told
    error = names.error(Unreadable(f"{path}: cut short.", f"rm {path.parent}"), path)
    assert (type(error), error.cause, error.remedy) == (
        Unreadable, f"{hidden}: cut short.", WITHHELD,
    )  # fmt: skip
    assert Names().source(source, path) is source


# --- readers and the server ---


def test_another_process_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_GRACE_S", 60)  # a busy machine takes its time
    scan = save(tmp_path / "scan.nii.gz", chest((9, 8, 7)), codes="LAS")
    broken, fifo = tmp_path / "broken.nii", tmp_path / "fifo"
    broken.write_bytes(b"no CT")
    os.mkfifo(fifo)
    reader = ProcessReader({"rescale": (1.0, -20.0)})
    try:
        for _ in range(2):
            volume, read_ms = reader.read(Scan(scan, None, 0, 0))
            expected = read_volume(scan, rescale=(1.0, -20.0))
            np.testing.assert_array_equal(volume.voxels, expected.voxels)
            assert replace(volume, voxels=expected.voxels).recipe() == expected.recipe()
            assert volume.source == expected.source
            assert not volume.voxels.flags.writeable
            assert read_ms > 0
            for bad, said in ((broken, "not a CT file"), (fifo, "a pipe")):
                with pytest.raises(Unreadable, match=said) as raised:
                    reader.read(Scan(bad, None, 0, 0))
                assert raised.value.remedy
        # A process that dies is the failure of its scan, and there is another one for the next.
        os.kill(reader._process.pid, signal.SIGKILL)
        with pytest.raises(Unreadable, match=r"scan.nii.gz: the process .* ended \(SIGKILL\)"):
            reader.read(Scan(scan, None, 0, 0))
        reader.read(Scan(scan, None, 0, 0))
        process = reader._process
        blocked = Path(f"/proc/{process.pid}/status").read_text().split("SigBlk:")[1].split()[0]
        assert int(blocked, 16) & 1 << signal.SIGINT - 1  # since before it imported anything
    finally:
        reader.close()
    assert process.exitcode == 0  # it has taken away what it had unpacked
    with pytest.raises(InvalidInput, match="closed"):
        reader.read(Scan(scan, None, 0, 0))


def test_a_server_is_waited_for_only_where_it_is_away() -> None:
    import threading

    stopped = threading.Event()
    told: list[str] = []
    answers: list[object] = []

    def ask() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def there() -> None:
        pass

    def away() -> None:
        raise Unavailable("gone")

    stopped.set()  # no pause; and then nothing is asked twice
    answers[:] = [Unavailable("gone"), 1]
    with pytest.raises(Unavailable):
        patiently(ask, away, 60, told.append, stopped)
    stopped.clear()
    answers[:] = [ServerError("broken")]
    with pytest.raises(ServerError):
        patiently(ask, there, 60, told.append, stopped)
    for error in (Unavailable("gone"), ServerError("reset")):
        answers[:] = [error]
        with pytest.raises(GoneError):
            patiently(ask, away, 0, told.append, stopped)
    answers[:] = [Unavailable("full")]
    with pytest.raises(Unavailable):  # of one scan alone
        patiently(ask, there, 0, told.append, stopped)
    assert told == []


@pytest.mark.parametrize(
    ("done", "total", "elapsed_s", "expected"),
    [
        (50, 150, 25, "2.0/s, 50 s left"), (1, 11, 30, "2.0/min, 5 min left"),
        (1, 1001, 900, "4.0/h, 10 d left"),
    ],
)  # fmt: skip
def test_a_pace(done: int, total: int, elapsed_s: float, expected: str) -> None:
    assert pace(done, total, elapsed_s) == expected


def test_a_journal_lies_beside_its_table(tmp_path: Path) -> None:
    assert journal_of(tmp_path / "a.csv").name == "a.csv.journal.jsonl"
    scans = copies(save(tmp_path / "a.nii", chest()), 2)
    folders = folder_names([Scan(path, None, 0, 0) for path in scans], Names())
    assert {str(folder) for folder in folders.values()} == {"0-a", "1-a"}
    several = [Path("a.nii"), Path("a.nii.gz"), Path("a.nii.nii"), Path("b.nii")]
    folders = folder_names([Scan(path, None, 0, 0) for path in several], Names())
    assert [str(each) for each in folders.values()] == ["a.nii", "a.nii.gz", "a.nii.nii", "b"]
