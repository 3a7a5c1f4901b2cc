"""The page of a scan in a real browser: it can be used, by mouse, keyboard and eye."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright

from ctclip_client import Volume
from ctclip_client.cli.program import main
from ctclip_client.contract import Geometry
from ctclip_client.report.index_page import index_page
from ctclip_client.report.scan_page import scan_page
from ctclip_client.thresholds import Thresholds
from ctclip_server.embedded.server import EmbeddedTriton

from ..nifti_files import chest, save
from ..pages import HOSTILE, SMALL, answer
from .conftest import Show, launch, opened

STRONGEST_FOR, STRONGEST_AGAINST = (255, 226, 122), (191, 227, 255)
"""Red, green and blue of the token that speaks most for a finding, or against it."""
_TEXTS = """
() => {
  const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) =>
    0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
      if (colour[3] !== 0) throw new Error("half transparent");
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [low, high] = [light(parse(style.color)), light(behind(element))].sort((a, b) => a - b);
    found.push({
      text: walker.currentNode.data.trim().slice(0, 40),
      size: parseFloat(style.fontSize), contrast: (high + 0.05) / (low + 0.05),
    });
  }
  return found;
}
"""

_BROKEN_WORDS = """
() => [...document.querySelectorAll(".findings .name")].flatMap((name) =>
  [...name.textContent.matchAll(/\\S+/g)].filter(({ index, 0: word }) => {
    const range = document.createRange();
    range.setStart(name.firstChild, index);
    range.setEnd(name.firstChild, index + word.length);
    return range.getClientRects().length > 1;
  }).map(([word]) => word))
"""


def picture(page: Page) -> NDArray[np.uint8]:
    """What the canvas shows: (rows, columns, 3)."""
    png = page.locator("#canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def coloured(pixels: NDArray[np.uint8]) -> float:
    """Share of pixels that are not grey."""
    spread = pixels.max(-1).astype(int) - pixels.min(-1)
    return float((spread > 24).mean())


def near(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Which of the pixels have that colour, or nearly."""
    close: NDArray[np.bool_] = np.abs(pixels.astype(int) - colour).max(-1) < 12
    return close


def places(
    chosen: NDArray[np.bool_], extent_mm: tuple[float, float, float]
) -> dict[str, tuple[float, float]]:
    """Where the middle of the chosen pixels lies on each plane: shares from the left and the top.

    extent_mm: of the view, along (z, x, y).
    """
    z, x, y = extent_mm
    height, width = chosen.shape
    panels = {  # as the page lays them out, in shares of the canvas, and their extents
        "axial": ((0, 0.664), (0, 1), (x, y)),
        "coronal": ((0.67, 1), (0, 0.495), (x, z)),
        "sagittal": ((0.67, 1), (0.505, 1), (y, z)),
    }
    found = {}
    for name, (across, down, extent) in panels.items():
        panel = chosen[slice(*(round(end * height) for end in down)),
                       slice(*(round(end * width) for end in across))]  # fmt: skip
        # The plane fills its panel along one direction only, and lies in the middle of it.
        scale = min(panel.shape[1] / extent[0], panel.shape[0] / extent[1])
        at_y, at_x = (indices.mean() for indices in np.nonzero(panel))
        found[name] = ((at_x - panel.shape[1] / 2) / scale / extent[0] + 0.5,
                       (at_y - panel.shape[0] / 2) / scale / extent[1] + 0.5)  # fmt: skip
    return found


def assert_readable(page: Page, width: int) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    texts = page.evaluate(_TEXTS)
    assert len(texts) > 9
    assert not [each for each in texts if each["size"] < 14 or each["contrast"] < 4.5]


def assert_crosshair(pixels: NDArray[np.uint8]) -> None:
    """It runs through each of the planes from end to end."""
    blue = np.abs(pixels.astype(int) - (107, 176, 255)).max(-1) < 30
    height, width = blue.shape
    beside = blue[:, round(0.67 * width) :]
    for plane in (blue[:, : round(0.66 * width)], beside[: height // 2], beside[height // 2 :]):
        assert plane.sum(0).max() > 0.8 * plane.shape[0]
        assert plane.sum(1).max() > 0.8 * plane.shape[1]


def moved(page: Page, name: str, value: int) -> None:
    page.locator(f"#{name}").fill(str(value))


def test_a_click_on_a_finding_shows_its_map(shown: Page) -> None:
    page = shown
    buttons = page.locator("button.finding")
    assert buttons.count() == 18
    assert_readable(page, 1400)
    (first,) = page.locator("button.finding[aria-pressed=true]").all()
    chosen = int(first.get_attribute("data-frame") or -1)
    first = page.locator(f"button.finding[data-frame='{chosen}']")
    other = page.locator(f"button.finding[data-frame='{(chosen + 5) % 18}']")
    moved(page, "opacity", 50)
    moved(page, "least", 30)
    before = picture(page)
    other.click()
    assert other.get_attribute("aria-pressed") == "true"
    assert first.get_attribute("aria-pressed") == "false"
    name = other.locator(".name").inner_text()
    assert page.locator("#map-title").inner_text().startswith(f"{name}: all tokens add up to ")
    after = picture(page)
    assert (before != after).any(-1).mean() > 0.02
    moved(page, "opacity", 0)
    grey = picture(page)
    assert coloured(grey) < coloured(after) / 2  # marks and lines are left
    page.get_by_role("button", name="Bone").click()
    assert page.locator("#window-text").inner_text() == "level 400, width 1800 HU"
    assert (picture(page) != grey).any(-1).mean() > 0.1


def test_weak_tokens_can_be_hidden(shown: Page) -> None:
    page = shown
    moved(page, "opacity", 60)
    shares = []
    for least in (0, 50, 95):
        moved(page, "least", least)
        shares.append(coloured(picture(page)))
    assert shares[0] > shares[1] > shares[2]
    low, high = (page.locator(f"#scale-{end}").inner_text() for end in ("low", "high"))
    assert float(low.replace("−", "-")) == -float(high) != 0


def test_it_can_be_used_by_keys_alone(shown: Page) -> None:
    page = shown
    buttons = page.locator("button.finding")
    buttons.nth(3).focus()
    page.keyboard.press("Enter")
    assert buttons.nth(3).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert buttons.nth(4).get_attribute("aria-pressed") == "true"
    before = picture(page)
    names = ("Axial", "Coronal", "Sagittal", "Map, opacity", "Hide weaker than")
    assert all(page.get_by_role("slider", name=name).count() == 1 for name in names)
    axial = page.get_by_role("slider", name="Axial")
    axial.focus()
    at = int(axial.input_value())
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert int(axial.input_value()) == at + 3
    assert re.match(rf"{at + 3} of \d+", axial.locator("xpath=..").locator("output").inner_text())
    assert (picture(page) != before).any(-1).mean() > 0.01


def test_a_click_into_a_plane_goes_there(shown: Page) -> None:
    """And the wheel over it goes through the slices."""
    page = shown
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    place = page.locator("#place")
    for across, side in ((0.2, "R"), (0.5, "L")):
        page.mouse.click(box["x"] + across * box["width"], box["y"] + 0.4 * box["height"])
        assert place.inner_text().startswith(f"Crosshair: {side} ")
    sagittal = page.locator("#sagittal")
    assert int(sagittal.input_value()) > int(sagittal.get_attribute("max") or 0) / 2
    at = page.locator("#axial").input_value()
    page.mouse.wheel(0, 100)
    page.wait_for_function("at => document.getElementById('axial').value !== at", arg=at)


def test_the_first_crosshair_lies_where_its_sliders_say(show: Show, report: Path) -> None:
    """Not between two voxels, whose tokens may be others."""
    page = show(report)
    first = page.locator("#place").inner_text()
    for name in ("axial", "coronal", "sagittal"):
        slider = page.locator(f"#{name}")
        at = int(slider.input_value())
        slider.fill(str(at + 1))
        slider.fill(str(at))
    assert page.locator("#place").inner_text() == first


def test_nothing_changes_a_window_behind_the_pages_back(shown: Page) -> None:
    """As the viewer's own double click and keys do, some of them by a dialog."""
    page = shown
    page.get_by_role("button", name="Mediastinum").click()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    at = box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"]
    page.mouse.click(*at)
    before = picture(page)
    page.mouse.dblclick(*at)
    for key in ("m", "?", "v", "c"):
        page.keyboard.press(key)
    np.testing.assert_array_equal(picture(page), before)
    assert page.locator("#canvas").get_attribute("tabindex") is None


def test_no_finding_is_broken_within_a_word(shown: Page) -> None:
    for width in (320, 420, 900, 1400):
        shown.set_viewport_size({"width": width, "height": 1000})
        assert shown.evaluate(_BROKEN_WORDS) == []


def test_each_side_of_the_patient_is_where_its_mark_is(
    server: EmbeddedTriton, show: Show, tmp_path: Path
) -> None:
    """A bright box at the patient's left, front and head, in a file that is stored otherwise."""
    shape = (40, 60, 100)
    voxels = np.full(shape, -900, np.int16)
    voxels[:, :5] = 50
    box = (slice(26, 34), slice(40, 54), slice(12, 32))  # towards S, L and A
    voxels[box] = 700
    scan = save(tmp_path / "box.nii.gz", voxels, (1.5, 0.75, 0.75), "RPI")
    path = tmp_path / "box.html"
    asked = [str(scan), "--url", server.grpc_url, "--report", str(path), "--any-region"]
    assert main(["predict", *asked]) == 0
    page = show(path)
    moved(page, "opacity", 0)
    counts = dict(zip(("axial", "sagittal", "coronal"), shape, strict=True))
    for name, along in zip(counts, box, strict=True):
        most = int(page.locator(f"#{name}").get_attribute("max") or 0)
        middle = (along.start + along.stop) / 2 / counts[name]
        moved(page, name, round(middle * most + 0.5))
    told = page.locator("#place").inner_text()
    found = re.match(r"Crosshair: L (\d+), A (\d+), S (\d+) mm from the middle; (\d+) HU", told)
    assert found, told
    left, front, head, hu = map(int, found.groups())
    assert left == pytest.approx(17 * 0.75, abs=1.6)
    assert front == pytest.approx(28 * 0.75, abs=1.6)
    assert head == pytest.approx(10 * 1.5, abs=3.1)
    assert hu == pytest.approx(700, abs=5)
    page.get_by_role("button", name="Bone").click()
    pixels = picture(page)
    grey = pixels.max(-1).astype(int) - pixels.min(-1) < 12
    for name, place in places(grey & (pixels.min(-1) > 150), (60, 45, 75)).items():
        x, y = {"axial": (47 / 60, 22 / 100), "coronal": (47 / 60, 10 / 40),
                "sagittal": (22 / 100, 10 / 40)}[name]  # fmt: skip
        assert place == pytest.approx((x, y), abs=0.06), name
        plane = page.locator(f"#planes .{name}")
        beside = [plane.locator(".left" if x < 0.5 else ".right"),
                  plane.locator(".top" if y < 0.5 else ".bottom")]  # fmt: skip
        assert {each.inner_text() for each in beside} < set("LAS")
        others = plane.locator("b").all_inner_texts()
        assert len(set(others) & set("RPI")) == 2


@pytest.mark.parametrize(("width", "has_maps"), [(1400, False), (400, True)])
def test_text_can_be_read_and_fits(width: int, has_maps: bool, show: Show, tmp_path: Path) -> None:
    """Every text that a page can have, and a narrow window in which nothing is cut off."""
    as_published = Geometry((24, 48, 48), (15, 7.5, 7.5))  # in millimetres
    given = answer(
        as_published, ("Interlobular septal thickening", "Cyst", "x" * 70), (4, 3, 6), "a/" * 60,
        notes=["Only the middle is seen."], series="1.2." * 15, seen_mm={"z": (5.0, 20.0)},
    )  # fmt: skip
    if not has_maps:
        given = replace(given, relevance=None)
    volume = Volume.from_array(chest((10, 20, 30)), (3, 3, 3), (1, 0))
    path = tmp_path / "page.html"
    path.write_bytes(scan_page(given, volume, Thresholds({"Cyst": 0.1, "x" * 70: 0.9}, "m")))
    page = show(path, width)
    assert_readable(page, width)
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    assert (box["width"] > box["height"]) == (width == 1400)
    pixels = picture(page)
    assert pixels.std() > 5
    if width == 1400:
        assert_crosshair(pixels)
    assert page.locator("#legend").count() == has_maps


@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_of_all_scans_can_be_read_and_fits(
    width: int, browser: Browser, tmp_path: Path
) -> None:
    checkpoint = {"random_weights": True}
    row = {"series": None, "release": "r1"}
    rows = [
        {**row, "path": "a/" * 60, "provenance": {"checkpoint": checkpoint},
         "findings": [{"finding": "Interlobular septal thickening", "probability": 0.7}],
         "recipe": {"notes": ["Only the middle is seen."]}},
        {**row, "path": "b", "series": "1.2." * 15,
         "error": {"kind": "Unreadable", "cause": "No CT.", "remedy": "Take another."}},
    ]  # fmt: skip
    path = tmp_path / "index.html"
    path.write_bytes(index_page([(each, None) for each in rows], tmp_path, None))
    page = opened(browser, width, 900)
    page.goto(path.as_uri())
    assert_readable(page, width)
    page.close()


def test_a_map_lies_where_its_tokens_do_and_names_are_text(show: Show, tmp_path: Path) -> None:
    """One token towards S, L and A that speaks against a finding with a hostile name. Tokens that
    are 0 have no colour, and the strongest has the brightest, however weak it is."""
    names = ("Ground-glass", HOSTILE, "Cyst")
    given = answer(SMALL, names, (4, 3, 5), HOSTILE, notes=[HOSTILE])
    assert given.relevance is not None
    given.relevance[0] = 1e-9
    given.relevance[1:] = 0
    given.relevance[1, 3, 2, 0] = -0.5
    path = tmp_path / "page.html"
    path.write_bytes(scan_page(given, Volume.from_array(chest((10, 20, 30)), (3, 3, 3), (1, 0))))
    page = show(path)
    told = page.locator("#map-title"), page.locator("#scale-low"), page.locator("#scale-high")
    page.locator("button.finding").get_by_text("Ground-glass").click()
    assert [each.inner_text() for each in told] == [
        "Ground-glass: all tokens add up to +6.00e−8", "−1.00e−9", "+1.00e−9"
    ]  # fmt: skip
    moved(page, "opacity", 100)
    assert near(picture(page), STRONGEST_FOR).mean() > 0.5
    page.locator("button.finding").get_by_text("Cyst").click()
    assert coloured(picture(page)) < 0.05
    title, *ends = (each.inner_text() for each in told)
    assert title == "Cyst: no token counts for or against it"
    assert [float(end) for end in ends] == [0, 0]
    page.locator("button.finding").get_by_text("onerror").click()
    assert page.locator("body > img").count() == 0
    assert "<script>alert('1')" in page.locator("h1").inner_text()
    assert page.locator("#scale-low").inner_text() == "−0.500"
    share = {"axial": 7 / 8, "sagittal": 5 / 6, "coronal": 1 / 10}
    for name, along in share.items():
        most = int(page.locator(f"#{name}").get_attribute("max") or 0)
        moved(page, name, round(along * most + 0.5))
    assert page.locator("#place").inner_text().endswith("; token −0.500")
    pixels = picture(page)
    assert coloured(pixels) < 0.1
    strongest = near(pixels, STRONGEST_AGAINST)
    for name, place in places(strongest, (120, 90, 150)).items():
        at = {"axial": (5 / 6, 1 / 10), "coronal": (5 / 6, 1 / 8), "sagittal": (1 / 10, 1 / 8)}
        assert place == pytest.approx(at[name], abs=0.03), name


def test_without_webgl_there_is_a_still_picture(report: Path, playwright: Playwright) -> None:
    browser = launch(playwright, "--disable-3d-apis")
    page = opened(browser, 1400, 1000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(report.as_uri())
    page.wait_for_selector("button.finding[disabled]")
    assert not page.locator("#canvas").is_visible()
    assert not page.locator("#axial").is_visible()
    assert not page.locator("#about-maps").is_visible()
    stills = page.locator("#stills img")
    assert stills.count() == 3
    for still in stills.all():
        png = still.screenshot()
        assert np.asarray(Image.open(io.BytesIO(png)).convert("L")).std() > 5
    assert "WebGL2" in page.locator("#still-reason").inner_text()
    assert not wrong
    browser.close()


_FOOTS = """() => [...document.styleSheets[0].cssRules]
  .filter((rule) => rule.type === CSSRule.PAGE_RULE).map((rule) => rule.cssText)"""


def test_on_paper_there_is_a_still_picture_and_each_sheet_says_what_it_is(shown: Page) -> None:
    page = shown
    (foot,) = page.evaluate(_FOOTS)
    assert "@bottom-center" in foot
    assert "RESEARCH USE ONLY" in foot
    assert not page.locator("#stills").is_visible()
    page.emulate_media(media="print")
    try:
        assert page.locator("#stills").is_visible()
        assert not page.locator("#canvas").is_visible()
    finally:
        page.emulate_media(media="screen")
    assert page.locator("#canvas").is_visible()
