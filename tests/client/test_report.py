"""`ctclip predict --report`: which pages are written, replaced, linked and refused."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ctclip_client.cli.program import main
from ctclip_server.embedded.server import EmbeddedTriton

from ..nifti_files import chest, save
from ..pages import Page

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict(server: EmbeddedTriton, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["predict", *map(str, arguments), "--readers", "0", "--url", server.grpc_url])
        return code, *capsys.readouterr()

    return run


def test_a_page_of_one_scan_and_a_table(predict: Run, phantoms: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    code, out, err = predict(phantoms / "ct0.nii.gz", "--report", path)
    assert code == 0
    assert "Cardiomegaly" in out
    assert f"report: {path}" in err
    page = Page(path.read_bytes())
    assert "RESEARCH USE ONLY" in page.text
    assert len([each for each in page.values("button") if "data-frame" in each]) == 18
    names = re.findall(r"0\.\d{3}", page.text)
    assert names[:18] == sorted(names[:18], reverse=True)
    assert "ct0.nii.gz" in page.text
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_numbers_as_without_a_page(predict: Run, phantoms: Path, tmp_path: Path) -> None:
    """And the maps of --explain are those of the page: one request."""
    scan, page, maps = phantoms / "ct1.nii.gz", tmp_path / "a.html", tmp_path / "maps"
    plain = json.loads(predict(scan, "--json")[1])
    code, out, _ = predict(scan, "--json", "--report", page, "--explain", maps)
    both = json.loads(out)
    assert code == 0
    assert both["findings"] == plain["findings"]
    assert both["report"] == str(page)
    assert {"maps", "report"} <= both["timings_ms"].keys()
    raw = base64.b64decode(Page(page.read_bytes()).with_id("maps"))
    shown = nibabel.Nifti1Image.from_bytes(raw)
    kept = nibabel.load(maps / "ct1" / "relevance-tokens.nii.gz")
    turned = nibabel.as_closest_canonical(shown).get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(
        turned, nibabel.as_closest_canonical(kept).get_fdata(dtype=np.float32)
    )


def test_without_maps_the_page_says_so(predict: Run, phantoms: Path, tmp_path: Path) -> None:
    page, bank = tmp_path / "a.html", tmp_path / "bank.json"
    bank.write_text('[{"finding": "Cyst", "present": "A cyst.", "absent": "No cyst."}]')
    assert predict(phantoms / "ct0.nii.gz", "--prompts", bank, "--report", page)[0] == 0
    found = Page(page.read_bytes())
    assert "There are no relevance maps" in found.text
    assert "not for other prompts" in found.text
    assert found.with_id("maps") == ""
    assert not [each for each in found.values("button") if "data-frame" in each]
    assert found.with_id("ct")


def test_a_page_for_each_of_many_scans_and_one_of_all(
    predict: Run, tmp_path: Path, phantoms: Path
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    for name in ("a/ct.nii.gz", "b/ct.nii.gz"):
        (scans / name).parent.mkdir(parents=True)
        (scans / name).write_bytes((phantoms / "ct2.nii.gz").read_bytes())
    (scans / "b" / "<b>bad.nii").write_bytes(b"no CT")
    code, table, err = predict(scans, "--report", f"{out}/")
    assert code == 3
    assert table.count("Cardiomegaly") == 2
    index = out / "index.html"
    assert f"report: {index}" in err
    page = Page(index.read_bytes())
    links = [each["href"] for each in page.values("a")]
    assert links == ["a/ct.html", "b/ct.html"]
    assert all((out / link).is_file() for link in links if link)
    assert "3 scans, 1 failed" in page.text
    assert "<b>bad.nii" in page.text

    # The same command scores nothing, and makes the index again; a page that is gone is told.
    (out / "a" / "ct.html").unlink()
    written = (out / "b" / "ct.html").stat().st_mtime_ns
    index.unlink()
    code, _, err = predict(scans, "--report", out)
    assert code == 3
    assert "0 scored, 1 failed, 2 done before" in err
    assert "pages are no longer in" in err
    assert (out / "b" / "ct.html").stat().st_mtime_ns == written
    page = Page(index.read_bytes())
    assert [each["href"] for each in page.values("a")] == ["b/ct.html"]
    assert "The page of this scan is missing" in page.text
    assert predict(scans, "--report", out, "--again")[0] == 3
    assert (out / "a" / "ct.html").is_file()


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Scans of two patients that have one name, and other answers."""
    found = tmp_path / "a" / "ct.nii", tmp_path / "b" / "ct.nii"
    for number, scan in enumerate(found):
        scan.parent.mkdir()
        save(scan, chest((20 + 4 * number, 30, 30)))
    return found


def of_two(found: Path) -> str:
    """Whose page it is."""
    (title,) = re.findall(r"<h1>.*/([ab])/ct.nii</h1>", found.read_text())
    return str(title)


def test_no_page_is_replaced_by_that_of_another_scan(
    predict: Run, two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two
    out = tmp_path / "out"
    asked = ("--any-region", "--report", out)
    code, _, err = predict(a, *asked)
    assert code == 0, err
    for again in ((), ("--again",), ("--jsonl", tmp_path / "other.jsonl")):
        code, _, err = predict(b, *asked, *again)
        assert code == 2
        assert f"{out / 'ct.html'} is the page of {a}, and that of {b} would replace it" in err
        assert of_two(out / "ct.html") == "a"
    monkeypatch.chdir(b.parent)
    code, _, err = predict(b.name, *asked)
    assert code == 2
    assert f"{out / 'ct.html'} is the page of {a}, and that of {b.name} would replace it" in err
    monkeypatch.chdir(a.parent)
    (tmp_path / "named").mkdir()
    named = ("--any-region", "--report", tmp_path / "named")
    assert predict(a.name, *named)[0] == 0
    monkeypatch.chdir(b.parent)
    code, _, err = predict(b.name, *named, "--again")
    assert code == 2
    assert "ct.html is the page of ct.nii in another place, and that of ct.nii would" in err
    code, _, err = predict(a, *asked)
    assert code == 0
    assert f"report: {out / 'index.html'}" in err
    # With more scans their common folder is another one: what is done keeps its page.
    code, _, err = predict(a, b, *asked)
    assert code == 0
    assert "1 scored, 0 failed, 1 done before" in err
    assert "no longer" not in err
    links = [each["href"] for each in Page((out / "index.html").read_bytes()).values("a")]
    assert links == ["ct.html", "b/ct.html"]
    assert [of_two(out / str(link)) for link in links] == ["a", "b"]
    assert predict(a, b, *asked, "--again")[0] == 0
    links = [each["href"] for each in Page((out / "index.html").read_bytes()).values("a")]
    assert [of_two(out / str(link)) for link in links] == ["a", "b"]


def test_what_is_no_page_is_not_replaced(
    predict: Run, two: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "ct.html").write_text("notes")
    code, _, err = predict(two[0], "--any-region", "--hash-names", "--report", out)
    assert code == 0, err
    code, _, err = predict(two[0], "--any-region", "--report", out, "--again")
    assert code == 2
    assert f"{out / 'ct.html'} is no page of a scan" in err
    assert (out / "ct.html").read_text() == "notes"


@pytest.mark.parametrize("hidden", [False, True])
def test_nothing_links_to_the_page_of_another_answer(
    predict: Run, two: tuple[Path, Path], hidden: bool, tmp_path: Path
) -> None:
    """Whoever put it there: here a copy of another scan's page."""
    out, other = tmp_path / "out", tmp_path / "other.html"
    asked = ("--any-region", *["--hash-names"] * hidden)
    assert predict(two[0], *asked, "--report", out)[0] == 0
    assert predict(two[1], *asked, "--report", other)[0] == 0
    (page,) = (each for each in out.rglob("*.html") if each.name != "index.html")
    page.write_bytes(other.read_bytes())
    code, _, err = predict(two[0], *asked, "--report", out)
    assert code == 0
    assert "pages are no longer in" in err
    index = Page((out / "index.html").read_bytes())
    assert not index.values("a")
    assert "The page of this scan is missing" in index.text


def test_a_page_is_told_only_where_it_is_of_this_run(
    predict: Run, two: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = two
    page, kept = tmp_path / "out.html", ("--jsonl", tmp_path / "out.jsonl")
    asked = ("--any-region", "--report", page)
    for scan in two:  # a file that is named is replaced
        code, _, err = predict(scan, *asked, *kept)
        assert code == 0
        assert f"report: {page}" in err
    assert f"report: {page}" in predict(b, *asked, *kept)[2]
    code, _, err = predict(a, *asked, *kept)
    assert code == 0
    assert "report: " not in err
    assert "pages are no longer in" in err
    bad = tmp_path / "bad.nii"
    bad.write_bytes(b"no CT")
    code, _, err = predict(bad, *asked)
    assert code == 2
    assert "report: " not in err
    assert of_two(page) == "b"


def test_where_every_scan_fails_the_page_of_all_says_why(predict: Run, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for name in ("a.nii", "b.nii"):
        (scans / name).write_bytes(b"no CT")
    table = tmp_path / "out.csv"
    code, _, err = predict(scans, "--report", out, "--csv", table)
    assert code == 2
    assert not table.exists()
    assert f"report: {out / 'index.html'}" in err
    page = Page((out / "index.html").read_bytes())
    assert "2 scans, 2 failed" in page.text
    assert page.text.count("not a CT file that this version can read") == 2


def test_hidden_names_are_not_on_pages(predict: Run, tmp_path: Path, phantoms: Path) -> None:
    scans, out = tmp_path / "Doe_Jane", tmp_path / "out"
    scans.mkdir()
    for name in ("Doe_1.nii.gz", "Doe_2.nii.gz"):
        (scans / name).write_bytes((phantoms / "ct2.nii.gz").read_bytes())
    (scans / "Doe_3.nii").write_bytes(b"no CT")
    assert predict(scans, "--report", out, "--hash-names")[0] == 3
    pages = list(out.rglob("*.html"))
    assert len(pages) == 3
    for page in pages:
        assert "Doe" not in page.name
        assert b"Doe_" not in page.read_bytes()


def test_what_makes_no_sense_is_refused_before_any_work(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server runs at that address."""

    def refused(*arguments: object) -> str:
        known = set(tmp_path.rglob("*"))
        code = main(["predict", *map(str, arguments), "--url", "localhost:1"])
        assert code == 2
        assert set(tmp_path.rglob("*")) <= known | {tmp_path / "out"}
        return capsys.readouterr().err

    scan, scans, out = phantoms / "ct0.nii.gz", phantoms, tmp_path / "out"
    thresholds = tmp_path / "thresholds.json"
    thresholds.write_text('{"kind": "ctclip-thresholds", "version": 1, "method": "m", '
                          '"thresholds": {"A": 0.5}}')  # fmt: skip
    page, bank = tmp_path / "a.html", tmp_path / "bank.json"
    bank.write_text('[{"finding": "Cyst", "present": "A cyst.", "absent": "No cyst."}]')
    error = refused(scans, "--report", page)
    assert f"got the file {page} for 4 scans, expected a folder" in error
    assert "--thresholds has no place" in refused(scan, "--thresholds", thresholds)
    assert "which is a file, expected a folder or FILE.html" in refused(scan, "--report", bank)
    assert "cannot be written" in refused(scan, "--report", tmp_path / "no" / "a.html")
    assert "not JSON" in refused(scan, "--report", page, "--thresholds", scan)
    assert "is the file of --csv" in refused(scan, "--report", page, "--csv", page)
    assert "where --report puts the page" in refused(
        scan, "--report", out, "--csv", out / "ct0.html"
    )
    assert "got 'A', expected some of 'Cyst'" in refused(
        scan, "--report", page, "--prompts", bank, "--thresholds", thresholds
    )
    for option in ("--again", "--retry-failed"):
        error = refused(scan, "--report", page, option)
        assert f"{option} is about the file of an earlier run, and none is named" in error
    own = tmp_path / f"{251 * 'x'}.nii"
    save(own, chest())
    assert "a name of 256 bytes, expected 255 at most" in refused(own, "--report", out)
    own = tmp_path / "index.nii"
    save(own, chest())
    assert "which is that of all scans" in refused(own, "--report", out)


def test_thresholds_of_other_findings_end_the_run(
    predict: Run, phantoms: Path, tmp_path: Path
) -> None:
    thresholds, page = tmp_path / "thresholds.json", tmp_path / "a.html"
    content = {"kind": "ctclip-thresholds", "version": 1, "method": "m"}
    thresholds.write_text(json.dumps({**content, "thresholds": {"Cyst": 0.5}}))
    asked = (phantoms / "ct0.nii.gz", "--report", page, "--thresholds", thresholds)
    code, _, err = predict(*asked)
    assert code == 2
    assert "got 'Cyst', expected some of" in err
    assert not page.exists()
    (tmp_path / "bad.nii").write_bytes(b"no CT")  # told before anything is read
    _, _, err = predict(tmp_path / "bad.nii", *asked[1:])
    assert "got 'Cyst', expected some of" in err
    assert "not a CT file" not in err
    thresholds.write_text(json.dumps({**content, "thresholds": {"Cardiomegaly": 0.0}}))
    asked = (asked[0], "--report", tmp_path / "out", *asked[3:])
    assert predict(*asked)[0] == 0
    assert "▲ above 0.000" in Page((tmp_path / "out" / "ct0.html").read_bytes()).text
    thresholds.write_text(json.dumps({**content, "thresholds": {"Cardiomegaly": 0.5}}))
    code, _, err = predict(*asked)  # a page of one run has not the marks of another
    assert code == 2
    assert "results of other options" in err
    assert "--report, --thresholds" in err


@pytest.mark.parametrize("package", ["jinja2", "PIL"])
def test_what_pages_need_is_named_before_any_work(
    package: str,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    page = tmp_path / "a.html"
    asked = [str(phantoms / "ct0.nii.gz"), "--report", str(page), "--url", "localhost:1"]
    assert main(["predict", *asked]) == 2
    assert "client[report]" in capsys.readouterr().err
