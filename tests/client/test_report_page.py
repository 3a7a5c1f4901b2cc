"""What is on the page of a scan, and where: findings, pictures, values, names."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from dataclasses import replace
from importlib.resources import files

import nibabel
import numpy as np
import pytest
from PIL import Image

from ctclip_client import Volume
from ctclip_client.contract import PUBLISHED_FINDINGS, PUBLISHED_GEOMETRY
from ctclip_client.report import images
from ctclip_client.report.images import ct_image, maps_image
from ctclip_client.report.pictures import thumbnails
from ctclip_client.report.scan_page import scan_page
from ctclip_client.report.view import half_grid, histogram
from ctclip_client.results import Provenance
from ctclip_client.thresholds import Thresholds

from ..nifti_files import chest
from ..pages import HOSTILE, SMALL, Page, answer

VIEWER = files("ctclip_client.report") / "viewer"


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
    # A body that fills the field, at pixels of which none are averaged, with a scanner's noise.
    voxels = random.normal(-100, 60, (120, 240, 240)).astype(np.int16)
    page = scan_page(given, Volume.from_array(voxels, (3.0, 1.5, 1.5), (1, 0)))
    assert len(page) < 10e6
    parts = Page(page)
    assert len(parts.with_id("maps")) == pytest.approx(18 * 24**3 * 4 * 4 / 3, rel=0.01)
