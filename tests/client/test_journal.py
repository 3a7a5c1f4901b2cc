"""The journal of a run: what is in it stays, is whole, and goes on."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from ctclip_client.batch.journal import Journal, vectors_of
from ctclip_client.errors import InvalidInput


def row(path: str, **fields: object) -> dict[str, object]:
    return {"path": path, "series": None, "size_bytes": 1, "mtime_ns": 2, "release": "r", **fields}


def opened(path: Path, asked: str = "x", **options: bool) -> Journal:
    return Journal(path, asked, key=("path", "series"), state=("size_bytes", "mtime_ns"), **options)


FAILED = {"error": {"kind": "Unreadable", "cause": "c", "remedy": ""}}


def test_a_journal_goes_on_and_the_last_row_of_a_scan_counts(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with opened(path) as journal:
        assert not journal.resumed
        for entry in (row("a"), row("b", **FAILED), row("c"), row("b", mtime_ns=3)):
            journal.append(entry)
    with opened(path) as journal:
        assert (journal.resumed, journal.release) == (True, "r")
        assert {key[0]: entry.kind for key, entry in journal.entries.items()} == {
            "a": "", "b": "", "c": "",
        }  # fmt: skip
        assert journal.entries["b", None].state == (1, 3)
        journal.select([("c", None), ("absent", None), ("b", None)])
        assert [each["path"] for each in journal.rows()] == ["c", "b"]
        journal.append(row("a", **FAILED))
        assert [each["path"] for each in journal.rows()] == ["c", "b"]
    assert len(path.read_text().splitlines()) == 5


def test_whatever_a_crash_leaves_of_the_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with opened(path) as journal:
        journal.append(row("a"))
        whole = path.read_bytes()
        journal.append(row("b"))
    content = path.read_bytes()
    for end in (*range(len(whole), len(content), 9), None):
        torn = content[:end] if end else whole + bytes(100)  # a failure of power leaves zeros
        path.write_bytes(torn)
        with opened(path) as journal:
            assert [key[0] for key in journal.entries] == ["a"]
            journal.append(row("b"))
        assert path.read_bytes() == content
    path.write_bytes(whole[:20])
    with opened(path) as journal:
        assert not journal.entries
    assert not path.exists()  # nothing was written


def test_what_is_no_journal_of_these_options_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    cases = {
        "old": "line 1 is no row of a run of ctclip",
        "\n": "line 1 is no row",
        '{"path": "a", "findings": []}\n': "line 1 is no row",  # of an older ctclip
        '[1]\n{"path"': "line 1 is no row",
        '{"findings": []}': "line 1 is no row",  # without an end of the line
        json.dumps(row("a", asked="x")) + "\n{\n": "line 2 is no row",
        json.dumps(row("a", asked="y")) + "\n": "results of other options",
        '{"path": "a", "key": "1", "asked": "y"}\n': "results of another command of ctclip",
    }
    for content, said in cases.items():
        path.write_text(content)
        with pytest.raises(InvalidInput, match=said), opened(path):
            pass
        assert path.read_text() == content
    path.write_text("old")
    with pytest.raises(InvalidInput, match="no row"), opened(path, anew=True):
        pass
    assert path.read_text() == "old"
    path.write_text('{"asked": "y"}\n')
    with pytest.raises(InvalidInput, match="no row"), opened(path, anew=True):
        pass
    another = {"path": "a", "key": "1", "asked": "y"}
    path.write_text("".join(json.dumps(each) + "\n" for each in (row("a", asked="y"), another)))
    with opened(path, anew=True) as journal:
        assert not journal.entries
        assert path.stat().st_size  # until there is something new
        journal.append(row("b"))
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["b"]
    with opened(path), pytest.raises(InvalidInput, match="another ctclip is writing"), opened(path):
        pass
    (tmp_path / "folder").mkdir()
    for bad in (tmp_path / "folder", tmp_path / "absent" / "out.jsonl"):
        with pytest.raises(InvalidInput, match="opening failed"), opened(bad):
            pass


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """As a limit of the size of files does, in a process of its own."""
    path = tmp_path / "out.jsonl"
    pid = os.fork()
    if pid == 0:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        code = 1
        with opened(path) as journal:
            journal.append(row("a"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20,) * 2)
            try:
                journal.append(row("b"))
            except InvalidInput as error:
                code = 0 if "writing failed: File too large" in error.cause else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["a"]


def test_rows_and_their_vectors_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    vectors = np.eye(4, dtype=np.float32)
    with opened(path, vectors=True) as journal:
        for name, vector in zip("abcd", vectors, strict=True):
            journal.append(row(name), vector)
    file = vectors_of(path)
    np.testing.assert_array_equal(np.fromfile(file, "<f4").reshape(-1, 4), vectors)
    content = file.read_bytes()
    for damaged, left in (
        (content[:-5], "abc"), (content[:32] + bytes(16) + content[48:], "abd"), (b"", ""),
    ):  # fmt: skip
        file.write_bytes(damaged)
        with opened(path, vectors=True) as journal:
            assert "".join(key[0] for key in journal.entries) == left
    file.write_bytes(content[:-5])
    with opened(path, vectors=True) as journal:
        journal.append(row("d"), 2 * vectors[3])
        rows = [each["embedding_row"] for each in journal.rows()]
        assert rows == [0, 1, 2, 4]  # not where a row counts on another array
        np.testing.assert_array_equal(journal.vectors.read(rows, 4), np.diag([1, 1, 1, 2]))
    file.unlink()
    with opened(path, vectors=True) as journal:
        journal.append(row("b"), vectors[1])
    with opened(path, vectors=True) as journal:
        assert [key[0] for key in journal.entries] == ["b"]
        assert [each["embedding_row"] for each in journal.rows()] == [5]


def test_what_a_disk_refuses_at_the_end_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    journal = opened(tmp_path / "out.jsonl").__enter__()
    journal.append(row("a"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidInput, match="writing failed: Disk quota"):
        journal.__exit__(None)
