"""`ctclip predict` over many scans: what is done stays done, whatever ended the run."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctclip_client import Client, Scan, Scores, read_volume
from ctclip_client.batch.tables import COLUMNS
from ctclip_client.cli.many import predicted
from ctclip_client.cli.predictions import Prediction
from ctclip_client.cli.program import main
from ctclip_server.embedded.server import EmbeddedTriton

from ..dicom_files import slices, write
from ..nifti_files import chest, copies, save
from .conftest import BEHAVIOURS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict(misbehaving: EmbeddedTriton, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        options = ("--readers", 0, "--url", misbehaving.grpc_url)
        code = main(["predict", *map(str, (*arguments, *options))])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of two good scans (z spacing 1: see `ask_for`), and one that is none."""
    folder = tmp_path / "scans" / "Doe_Jane"
    folder.mkdir(parents=True)
    for number in range(2):
        save(folder / f"{number}-good.nii", chest(seed=number), (1.0, 0.7, 0.8))
    (folder / "bad.nii").write_bytes(b"no CT")
    return folder.parent


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_goes_on_where_it_ended(predict: Run, scans: Path, tmp_path: Path) -> None:
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.csv"
    files = ("--jsonl", lines, "--csv", table)
    code, out, err = predict(scans, *files)
    assert (code, out) == (3, "")
    assert "plan: 3 scans, 3 to read" in err
    assert "3 scans: 2 scored, 1 failed" in err
    first = rows(lines)
    assert {Path(row["path"]).name: "error" in row for row in first} == {
        "0-good.nii": False, "1-good.nii": False, "bad.nii": True,
    }  # fmt: skip
    for row in first:
        path = Path(row["path"])
        state = path.stat()
        assert (row["size_bytes"], row["mtime_ns"]) == (state.st_size, state.st_mtime_ns)
        assert row["series"] is None
        if "error" in row:
            assert row["error"]["kind"] == "Unreadable"
            assert row["error"]["cause"].startswith(f"{path}: ")
        else:
            assert row["release"] == row["provenance"]["release"] == "misbehaving"
    written = table.read_bytes()
    with table.open(newline="") as file:
        header, *cells = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert [Path(row[0]).name for row in cells] == ["0-good.nii"] * 2 + ["1-good.nii"] * 2
    told, recipe = dict(zip(header, cells[0], strict=True)), first[0]["recipe"]
    assert (told["turned"], told["sha256"]) == (recipe["turned"], first[0]["sha256"])
    assert [float(told[f"hu_p{n}"]) for n in (5, 50, 95)] == [*recipe["hu_percentiles"].values()]

    lines.write_bytes(lines.read_bytes()[:-10])  # as kill -9 may leave it
    for _ in range(2):
        table.unlink()
        code, _, err = predict(scans, *files)
        assert code == 3
        assert f"going on from {lines}: " in err
        assert table.read_bytes() == written
    assert "2 done by release misbehaving, 1 failed" in err
    assert "3 scans: 0 scored, 1 failed, 2 done before" in err
    assert len(rows(lines)) == 3

    # What has changed is scored again, and what failed where that is asked for.
    bad, good = (scans / "Doe_Jane" / name for name in ("bad.nii", "0-good.nii"))
    os.utime(good, ns=(1, 1))
    state = bad.stat()
    bad.write_bytes(good.read_bytes()[: state.st_size])
    os.utime(bad, ns=(state.st_mtime_ns, state.st_mtime_ns))
    assert predict(scans, *files)[0] == 3
    assert len(rows(lines)) == 4
    code, _, err = predict(scans, *files, "--retry-failed")
    assert (code, len(rows(lines))) == (3, 5)
    assert "Analyze" in rows(lines)[-1]["error"]["cause"]
    bad.unlink()
    good.with_name("2-good.nii").hardlink_to(good)
    code, _, err = predict(scans, *files)
    assert code == 0  # of the scans that are there
    assert "3 scans: 1 scored, 0 failed, 2 done before" in err
    assert table.read_text().count("good.nii") == 6


def test_a_table_is_of_its_command_and_nothing_is_scored_twice(
    predict: Run, scans: Path, tmp_path: Path
) -> None:
    """Whether something failed or not: the journal beside a table stays."""
    table, journal = tmp_path / "out.csv", tmp_path / "out.csv.journal.jsonl"
    folder = scans / "Doe_Jane"
    code, _, err = predict(folder / "0-good.nii", "--csv", table)
    assert (code, f"every result is kept in {journal}, so that none" in err) == (0, True)
    assert "--retry-failed" not in err
    code, _, err = predict(scans, "--csv", table)
    assert (code, "plan: 3 scans, 2 to read" in err) == (3, True)
    assert "--retry-failed tries again what failed" in err
    shutil.copy(folder / "0-good.nii", folder / "bad.nii")
    assert predict(scans, "--csv", table, "--retry-failed")[0] == 0
    assert table.read_text().count("bad.nii") == 2
    code, _, err = predict(folder / "1-good.nii", "--csv", table)
    assert (code, "plan: 1 scan, 0 to read" in err) == (0, True)
    with table.open(newline="") as file:
        assert {Path(row["path"]).name for row in csv.DictReader(file)} == {"1-good.nii"}
    assert len(rows(journal)) == 4


def test_no_server_is_needed_to_refuse_what_is_no_scan(predict: Run, tmp_path: Path) -> None:
    code, _, err = predict(tmp_path / "absent.nii", "--url", "localhost:1")
    assert (code, "absent.nii: No such file" in err, "Triton" in err) == (2, True, False)


def test_slices_named_one_by_one_are_told_once_what_to_do(predict: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "scan", slices(chest((3, 6, 7)) + 1024))
    code, _, err = predict(*sorted(folder.iterdir()))
    assert code == 2
    assert err.count("one image of a scan") == 3
    assert err.count(f"Name the folder: {folder}") == 1


def test_results_of_two_releases_are_not_mixed(predict: Run, scans: Path, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    predict(scans, "--jsonl", lines)
    older = lines.read_text().replace('"release": "misbehaving"', '"release": "older"')
    kept = "".join(line for line in older.splitlines(keepends=True) if "1-good" not in line)
    lines.write_text(kept)
    code, _, err = predict(scans, "--jsonl", lines)
    assert code == 2
    assert f"{lines}: holds results of release older; the server has release misbehaving" in err
    assert f"what was done so far is in {lines}\n" in err
    assert lines.read_text() == kept
    assert predict(scans, "--jsonl", lines, "--again")[0] == 3
    assert len(rows(lines)) == 3


def test_nor_where_the_release_changes_in_the_middle(
    predict: Run, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(scores: Scores, scan: Scan, *more: Any) -> Prediction:
        if "1-good" in scan.path.name:
            scores = replace(scores, provenance=replace(scores.provenance, release="newer"))
        return predicted(scores, scan, *more)

    monkeypatch.setattr("ctclip_client.cli.many.predicted", later)
    lines = tmp_path / "out.jsonl"
    code, _, err = predict(scans / "Doe_Jane" / "0-good.nii", scans, "--jsonl", lines)
    assert code == 2
    assert "results of release misbehaving; the server has release newer now" in err
    assert [Path(row["path"]).name for row in rows(lines) if "error" not in row] == ["0-good.nii"]


@pytest.mark.parametrize("options", [["--embedding"], ["--slope", "1", "--intercept", "0"]])
def test_nor_are_those_of_other_options(
    options: list[str], predict: Run, scans: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "out.jsonl"
    predict(scans, "--jsonl", lines)
    before = lines.read_bytes()
    code, _, err = predict(scans, "--jsonl", lines, *options)
    assert code == 2
    assert "holds results of other options" in err
    assert lines.read_bytes() == before


def test_a_server_that_fails_for_every_scan_ends_the_run(predict: Run, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    spacing = BEHAVIOURS.index("internal") + 1.0
    scans = copies(save(tmp_path / "scan.nii", chest(), (spacing, 0.7, 0.8)), 20)
    code, _, err = predict(*scans, "--jsonl", lines)
    assert code == 4
    assert "for 10 scans in a row: the run ends here" in err
    kinds = [row["error"]["kind"] for row in rows(lines)]
    assert kinds in (["ServerError"] * 9, ["ServerError"] * 8)  # two are under way at a time


def test_hashed_names_leave_no_name_in_any_output(
    predict: Run, scans: Path, tmp_path: Path
) -> None:
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.csv"
    options = ("--jsonl", lines, "--csv", table, "--json", "--hash-names")
    code, out, err = predict(scans, *options)
    assert code == 3
    said = out + err + lines.read_text() + table.read_text()
    for name in ("Doe", "Jane", "good", "bad.nii", str(scans)):
        assert name not in said
    assert len(out.splitlines()) == 2
    assert {len(row["path"]) for row in rows(lines)} == {64}
    code, out, err = predict(scans, *options)
    assert (code, out) == (3, "")
    assert "3 scans: 0 scored, 1 failed, 2 done before" in err


def test_maps_and_parquet_by_hashed_names(
    server: EmbeddedTriton, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet

    table, maps = tmp_path / "out.parquet", tmp_path / "maps"
    scans = [phantoms / f"ct{number}.nii.gz" for number in range(2)]
    arguments = [*scans, "--explain", maps, "--parquet", table, "--hash-names"]
    assert main(["predict", *map(str, arguments), "--url", server.grpc_url]) == 0
    found = pyarrow.parquet.read_table(table).to_pylist()
    assert list(found[0]) == list(COLUMNS)
    assert len(found) == 36
    paths = list(dict.fromkeys(row["path"] for row in found))
    assert sorted(folder.name for folder in maps.iterdir()) == sorted(paths)
    with Client(server.grpc_url) as client:
        for number, scan in enumerate(scans):
            scores = client.pathologies(read_volume(scan))
            mine = [row["probability"] for row in found if row["path"] == paths[number]]
            assert mine == pytest.approx(scores.probabilities.tolist(), abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "maps", "out.parquet", "out.parquet.journal.jsonl"
    ]  # fmt: skip
    assert "ct0" not in capsys.readouterr().err
    # Maps that cannot be written end the run, as a journal that cannot.
    shutil.rmtree(maps / paths[0])
    (maps / paths[0]).write_text("no folder")
    assert main(["predict", *map(str, arguments), "--url", server.grpc_url]) == 0
    assert "that were scored before: 1); --again makes" in capsys.readouterr().err
    arguments.append("--again")
    assert main(["predict", *map(str, arguments), "--url", server.grpc_url]) == 2
    assert f"error: {maps / paths[0]}: cannot be written: File exists" in capsys.readouterr().err


def test_no_maps_of_another_scan_are_replaced(
    server: EmbeddedTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    a, b = tmp_path / "a" / "ct.nii", tmp_path / "b" / "ct.nii"
    for scan in (a, b):
        scan.parent.mkdir()
        save(scan, chest())
    maps, lines = tmp_path / "maps", tmp_path / "out.jsonl"
    index, kept = maps / "ct" / "relevance.json", ("--jsonl", lines)
    asked = ["--any-region", "--explain", maps, "--url", server.grpc_url]

    def predict(*given: object) -> tuple[int, str]:
        code = main(["predict", *map(str, (*given, *asked))])
        return code, capsys.readouterr().err

    assert predict(a, *kept)[0] == 0
    for other in (kept, (*kept, "--again"), ("--csv", tmp_path / "other.csv"), ()):
        code, err = predict(b, *other)
        assert code == 2
        assert f"{index} is of another scan's maps, and that of {b} would replace it" in err
    code, err = predict(a, b, *kept)  # what is done keeps its maps
    assert code == 0
    assert "no longer" not in err
    assert [Path(row["relevance"]).parent for row in rows(lines)] == [maps / "ct", maps / "b/ct"]
    assert str(tmp_path) not in index.read_text()
    before = index.stat().st_mtime_ns
    for folder, code in ((b.parent, 2), (a.parent, 0)):  # its own are made anew
        monkeypatch.chdir(folder)
        assert predict("ct.nii")[0] == code
    assert index.stat().st_mtime_ns > before
    (tmp_path / "link").symlink_to(a.parent)
    assert predict(tmp_path / "link" / "ct.nii")[0] == 0
    a.parent.rename(tmp_path / "moved")
    (tmp_path / "link").unlink()
    code, err = predict(tmp_path / "moved" / "ct.nii")
    assert code == 2
    assert f"{index} is of another scan's maps" in err
    assert "as where the scans were moved" in err
    (tmp_path / "moved").rename(a.parent)
    index.write_text("notes")
    code, err = predict(a)
    assert code == 2
    assert f"{index} does not say whose maps it names" in err
    assert "no longer" not in predict(a, *kept)[1]
    index.unlink()
    assert "no longer" in predict(a, *kept)[1]


def test_a_list_and_scans_that_are_not_there(predict: Run, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\nscans/Doe_Jane/0-good.nii\nscans/absent.nii\n")
    code, out, err = predict("--files", tmp_path / "list.csv", "--json")
    assert code == 3
    assert json.loads(out)["path"] == str(scans / "Doe_Jane" / "0-good.nii")
    assert f"error: {scans / 'absent.nii'}: No such file or directory." in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--repository", "r", "--url", "localhost:1"], "--url is for one that runs already"),
        (["--repository", "r", "--tls"], "--tls is for one that runs already"),
        (["--repository", "absent", "list"], "absent"),
        (["--readers", "x"], "expected a number of processes"),
        ([""], "expected a path"),
        (["--wait-s", "0"], "expected seconds"),
        ([], "no scan is named"),
        (["a.nii", "--again"], "--again is about the file of an earlier run"),
        (["a.nii", "--retry-failed", "--json"], "--retry-failed is about the file of an earlier"),
        (["a.nii", "--csv", "list", "--files", "list"], "is the file of --files"),
    ],
)
def test_usage_errors(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("list").write_text("a.nii\n")
    try:
        code = main(["predict", *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
    assert list(Path().iterdir()) == [Path("list")]


def test_without_the_servers_distribution(
    scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ctclip_client.cli.serving.entry_points", lambda **_: ())
    assert main(["predict", str(scans), "--repository", "r"]) == 2
    said = capsys.readouterr().err
    assert "a part of ctclip-server, which is not installed" in said
    assert "pip install ./client ./server" in said


def test_an_embedded_server_that_dies(
    scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = SimpleNamespace(load=lambda: lambda *_: nullcontext("localhost:1"))
    monkeypatch.setattr("ctclip_client.cli.serving.entry_points", lambda **_: (server,))
    assert main(["predict", str(scans), "--repository", "r"]) == 4
    said = capsys.readouterr().err
    assert "error: the embedded server has gone: localhost:1" in said
    assert "Run the same command again" in said
