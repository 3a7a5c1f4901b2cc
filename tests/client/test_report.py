"""`ctclip predict --report`: what is written, what is refused, and what is on the page."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from ctclip_client import Volume
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS, PUBLISHED_GEOMETRY
from ctclip_client.report import images
from ctclip_client.report.images import ct_image, maps_image
from ctclip_client.report.pictures import thumbnails
from ctclip_client.report.scan_page import scan_page
from ctclip_client.report.view import half_grid, histogram
from ctclip_client.results import Provenance
from ctclip_client.thresholds import Thresholds
from ctclip_server.embedded.server import EmbeddedTriton

from ..nifti_files import chest, save
from ..pages import HOSTILE, SMALL, Page, answer

Run = Callable[..., tuple[int, str, str]]
VIEWER = files("ctclip_client.report") / "viewer"


@pytest.fixture
def predict(server: EmbeddedTriton, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["predict", *map(str, arguments), "--readers", "0", "--url", server.grpc_url])
        return code, *capsys.readouterr()

    return run


def test_the_viewer_is_the_published_file() -> None:
    recorded = json.loads((VIEWER / "niivue.json").read_text())
    content = (VIEWER / "niivue.umd.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == recorded["sha256"]
    # What would end or change the script that holds it, and what the page's policy forbids.
    for words in (b"</script", b"<!--", b"\r", b"eval(", b"new Function(", b"new Worker("):
        assert words not in content


def test_the_licences_of_all_that_the_viewer_holds_travel_with_a_page() -> None:
    recorded = json.loads((VIEWER / "niivue.json").read_text())
    volume = Volume.from_array(chest((10, 20, 30)), (3, 3, 3), (1, 0))
    page = Page(scan_page(answer(SMALL, ("Cyst",), (4, 3, 5)), volume))
    licences = page.with_id("licences")
    held = [f"{recorded['name']}@{recorded['version']}", *recorded["holds"].split()]
    for each in held:
        name, _, version = each.rpartition("@")
        _, _, text = licences.partition(f"\n{name} {version} (")
        text = text.partition("=====\n\n")[2].partition("=====")[0]
        assert re.search(r"Copyright|Permission is hereby granted", text), name
        assert len(text) > 500, name
    codecs = ("C-Blosc", "FastLZ", "LZ4", "Snappy", "Zstandard", "zlib")
    for name in (*codecs, "Emscripten", "Papaya", "Roboto"):
        assert f"\n{name}" in licences


def test_random_weights_are_told_where_they_are_and_only_there() -> None:
    volume = Volume.from_array(chest((10, 20, 30)), (3, 3, 3), (1, 0))
    trained = answer(SMALL, ("Cyst",), (4, 3, 5), hu_source="the planted source")
    provenance = replace(trained.scores.provenance, random_weights=True)
    random = replace(trained, scores=replace(trained.scores, provenance=provenance))
    for told, said in ((random, True), (trained, False)):
        page = Page(scan_page(told, volume))
        assert ("RANDOM WEIGHTS" in page.text) == said
        assert "RESEARCH USE ONLY" in page.text
        assert "the planted source" in page.text


def test_the_view_lies_where_the_scan_does_and_its_values_are_hounsfield_units() -> None:
    """A cube at the patient's left, front and head, in a scan that is smaller than the view along
    one axis and larger along another; by nibabel."""
    voxels = np.full((30, 50, 90), -1000, np.int16)
    voxels[20:26, 36:46, 8:24] = 400  # towards S, L and A
    volume = Volume.from_array(voxels, (3.0, 2.0, 1.2), (1, 0))
    view = half_grid(volume, SMALL)
    assert view.voxels.shape == (20, 30, 50)
    assert view.spacing_mm == (6.0, 3.0, 3.0)
    raw = gzip.decompress(base64.b64decode(ct_image(view)[0]))
    image = nibabel.Nifti1Image.from_bytes(raw)
    hu = image.get_fdata()
    assert hu.min() == pytest.approx(-1000)
    # The middle of the cube, in millimetres from the scan's own middle, towards R, A and S.
    middle = np.array([
        -((36 + 46) / 2 - 25) * 2.0, -((8 + 24) / 2 - 45) * 1.2, ((20 + 26) / 2 - 15) * 3.0
    ])  # fmt: skip
    weights = hu + 1000
    places = np.indices(hu.shape).reshape(3, -1)
    mass = (places * weights.ravel()).sum(1) / weights.sum()
    # Upstream's crop rounds to whole voxels of the model: half of one, 3 × 1.5 × 1.5 mm.
    np.testing.assert_allclose(nibabel.affines.apply_affine(image.affine, mass), middle, atol=1.6)
    volume_mm3 = 6 * 10 * 16 * 3 * 2 * 1.2
    np.testing.assert_allclose(weights.sum() / 1400 * 6 * 3 * 3, volume_mm3, rtol=0.02)
    assert hu.max() == pytest.approx(400, abs=4)  # half a step

    maps = np.zeros((2, 4, 3, 5), np.float32)
    maps[1, 3, 2, 0] = 0.25  # S, L, A
    tokens = nibabel.Nifti1Image.from_bytes(base64.b64decode(maps_image(maps, SMALL)))
    assert tokens.shape == (3, 5, 4, 2)
    ((i, j, k, frame),) = np.argwhere(tokens.get_fdata())
    assert frame == 1
    r, a, s = nibabel.affines.apply_affine(tokens.affine, (i, j, k))
    extent = np.array(SMALL.volume_shape) * SMALL.target_spacing_mm
    np.testing.assert_allclose((r, a, s), (-extent[1] / 3, extent[2] * 2 / 5, extent[0] * 3 / 8))


def test_noise_costs_steps_and_not_the_size_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    noise = random.normal(600, 300, (20, 30, 50)).clip(-1000, 1000)
    noise[:, :5] = -1000
    volume = Volume.from_array(noise.astype(np.int16), (6.0, 3.0, 3.0), (1, 0))
    view = half_grid(volume, SMALL)
    steps = []
    for limit in (1 << 20, 20_000, 15_000):
        monkeypatch.setattr(images, "_CT_BYTES", limit)
        content, step_hu = ct_image(view)
        packed = base64.b64decode(content)
        assert len(packed) <= limit
        hu = nibabel.Nifti1Image.from_bytes(gzip.decompress(packed)).get_fdata()
        expected = noise.transpose(1, 2, 0)
        np.testing.assert_allclose(hu, expected, atol=step_hu / 2 + 5)  # half of 8 HU, too
        assert hu.min() == -1000
        steps.append(round(step_hu))
    assert steps[0] == 8 < steps[1] < steps[2]


@pytest.mark.parametrize("flip", [False, True])
def test_thumbnails_show_each_side_where_its_mark_is(flip: bool) -> None:
    shape = (40, 60, 80)
    places = (slice(15, 35), slice(25, 55), slice(5, 45))  # through the middle; to S, L and A
    voxels = np.full(shape, -1000, np.int16)
    voxels[places] = 1000
    volume = Volume.from_array(voxels[:, ::-1] if flip else voxels, (3.0, 2.0, 1.0), (1, 0))
    planes = thumbnails(volume, {"z": (30.0, 90.0), "x": (0.0, 120.0), "y": (0.0, 80.0)})
    assert [plane.title for plane in planes] == ["Axial", "Coronal", "Sagittal"]
    bright = {"L": not flip, "R": flip, "A": True, "P": False, "S": True, "I": False}
    for plane in planes:
        content = base64.b64decode(plane.png.partition(",")[2])
        picture = np.asarray(Image.open(io.BytesIO(content)))
        assert picture.shape == (plane.height, plane.width)
        height, width = picture.shape
        means = {
            plane.sides[0]: picture[:, : width // 2].mean(),
            plane.sides[1]: picture[:, width // 2 :].mean(),
            plane.sides[2]: picture[: height // 2].mean(),
            plane.sides[3]: picture[height // 2 :].mean(),
        }
        left, right, top, bottom = plane.sides
        assert (means[left] > means[right]) == (bright[left] > bright[right])
        assert (means[top] > means[bottom]) == (bright[top] > bright[bottom])
    axial, coronal, _ = planes
    assert axial.outline == pytest.approx((0, 0, 100, 100))
    assert coronal.outline == pytest.approx((0, 25, 100, 50))
    long = Volume.from_array(np.zeros((300, 4, 4), np.int16), (1.0, 1.0, 1.0), (1, 0))
    for cut_mm, told in ((0.0, False), (0.9, False), (2.0, True)):
        planes = thumbnails(long, {"z": (0.0, 300.0 - cut_mm), "x": (0.0, 4.0), "y": (0.0, 4.0)})
        assert (planes[0].outline is not None) == told


def test_the_histogram_counts_every_voxel() -> None:
    random = np.random.default_rng(3)
    stored = random.integers(-32768, 32768, (7, 8, 9)).astype(np.int16)
    found = histogram(Volume.from_array(stored, (1, 1, 1), (0.1, -20)))
    hu = 0.1 * stored - 20
    assert found.counts.sum() == stored.size
    inner = found.counts[1:-1].sum()
    assert inner == ((hu >= found.edges[1]) & (hu < found.edges[-2])).sum()
    assert found.below == pytest.approx((hu < -1000).mean())
    assert found.above == pytest.approx((hu > 1000).mean())


def test_names_cannot_change_the_page() -> None:
    findings = (HOSTILE, "Nodule")
    given = answer(
        SMALL, findings, (4, 3, 5), HOSTILE, notes=[HOSTILE], series=HOSTILE, hu_source=HOSTILE,
        orientation=HOSTILE, turned=HOSTILE, spacing_source=HOSTILE,
    )  # fmt: skip
    volume = Volume.from_array(chest((10, 20, 30)), (3, 3, 3), (1, 0))
    usual = answer(SMALL, ("Cyst", "Nodule"), (4, 3, 5), "scan", notes=["x"], series="1.2")
    page, plain = (
        Page(scan_page(each, volume, Thresholds({"Nodule": 0.5}, HOSTILE)))
        for each in (given, usual)
    )
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    data = json.loads(page.with_id("data"))
    shown = HOSTILE.replace("\u202e", "\\x202e").replace("\udc80", "\\xdc80")
    assert data["maps"][0]["finding"] == shown
    assert page.text.count(shown) >= 8
    assert "\u202e" not in page.text


def test_the_policy_lets_the_pages_own_scripts_run_and_nothing_else() -> None:
    volume = Volume.from_array(chest((10, 20, 30)), (3, 3, 3), (1, 0))
    page = Page(scan_page(answer(SMALL, ("Cyst",), (4, 3, 5)), volume))
    (policy,) = [each["content"] for each in page.values("meta") if "http-equiv" in each]
    assert policy is not None
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"].split() == [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script, attributes in zip(page.scripts, page.values("script"), strict=True)
        if "type" not in attributes
    ]
    assert "connect-src" not in directives
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag


def test_thresholds_are_on_the_page() -> None:
    volume = Volume.from_array(chest((10, 20, 30)), (3, 3, 3), (1, 0))
    given = answer(SMALL, ("A", "B", "C"), (4, 3, 5))
    (a, b, _) = map(float, given.scores.probabilities)
    text = Page(scan_page(given, volume, Thresholds({"A": a, "B": b + 0.01}, "youden"))).text
    words = " ".join(text.split())
    assert f"A {a:.3f} ▲ above {a:.3f}" in words
    assert f"B {b:.3f} below {b + 0.01:.3f}" in words
    assert re.search(r"C 0\.\d{3} no threshold", words)
    assert "method: youden" in words
    near = Page(scan_page(given, volume, Thresholds({"A": a + 2e-5}, "youden"))).text
    assert f"A {a:.5f} below {a + 2e-5:.5f}" in " ".join(near.split())
    assert "no published operating point" not in words
    assert "no published operating point" in Page(scan_page(given, volume)).text


def test_marks_that_nobody_knows_are_told() -> None:
    volume = Volume.from_array(chest((10, 20, 30)), (3, 3, 3), (1, 0))
    for orientation, told in (("as stored", True), ("array", True), ("LPS", False)):
        given = answer(SMALL, ("Cyst",), (4, 3, 5), orientation=orientation)
        text = Page(scan_page(given, volume)).text
        assert ("nothing told how the patient lay" in text) == told


def test_what_the_model_sees_is_not_guessed() -> None:
    volume = Volume.from_array(chest((10, 20, 30)), (3, 3, 3), (1, 0))
    given = answer(SMALL, ("Cyst",), (4, 3, 5))
    content = {**given.scores.provenance.content}
    del content["geometry"]
    provenance = Provenance.from_json(json.dumps(content))
    silent = replace(given, scores=replace(given.scores, provenance=provenance))
    for told, is_known in ((given, True), (silent, False)):
        page = Page(scan_page(told, volume))
        assert ("What the model sees of it is not known." in page.text) != is_known
        assert ("does not tell what its model sees" in page.text) != is_known
        assert ("The model sees all of it." in page.text) == is_known
        assert ("The CT is what the model sees" in page.text) == is_known
        assert bool(page.with_id("maps")) == is_known
        assert bool(json.loads(page.with_id("data"))["maps"]) == is_known
        assert bool([each for each in page.values("button") if "data-frame" in each]) == is_known


def test_a_page_at_the_published_geometry_stays_below_10_mb() -> None:
    """With 18 maps, and noise for a CT, which no compression makes smaller than its entropy."""
    findings = tuple(entry.finding for entry in PUBLISHED_FINDINGS)
    given = answer(PUBLISHED_GEOMETRY, findings, (24, 24, 24))
    random = np.random.default_rng(5)
    # A chest: half of it air, the rest soft tissue with a scanner's noise.
    voxels = random.normal(-100, 60, (160, 320, 320)).astype(np.int16)
    voxels[:, :160] = -1000
    page = scan_page(given, Volume.from_array(voxels, (2.25, 1.125, 1.125), (1, 0)))
    assert len(page) < 10e6
    parts = Page(page)
    assert len(parts.with_id("maps")) == pytest.approx(18 * 24**3 * 4 * 4 / 3, rel=0.01)


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
    predict: Run, two: tuple[Path, Path], tmp_path: Path
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
