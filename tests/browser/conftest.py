"""A browser, and pages of `ctclip predict --report` to look at in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, sync_playwright

from ctclip_client.cli.program import main
from ctclip_server.embedded.server import EmbeddedTriton

# WebGL by software: machines of tests have no GPU. The sandbox needs rights that root lacks there.
_FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
_PATIENCE_MS = 180_000
"""Machines of tests draw without a GPU, and do other things besides."""
_OWN_WARNINGS = ("GL Driver Message", "[.WebGL-", "Automatic fallback to software WebGL")
"""What Chromium says of how it draws, by its release and the machine's driver."""
Show = Callable[..., Page]


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    if shutil.which("chromium") is None:
        pytest.skip("NOT RUN: chromium is not installed (apt-get install chromium)")
    with sync_playwright() as running:
        yield running


def launch(playwright: Playwright, *flags: str) -> Browser:
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=[*_FLAGS, *flags], timeout=_PATIENCE_MS
    )


def opened(browser: Browser, width: int, height: int) -> Page:
    """An empty page in a window of so many pixels."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(_PATIENCE_MS)
    return page


def complaint(message: ConsoleMessage) -> str | None:
    """What a page says that it should not: errors, and warnings but for the browser's own."""
    if message.type == "error":
        return message.text
    own = any(words in message.text for words in _OWN_WARNINGS)
    return message.text if message.type == "warning" and not own else None


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = launch(playwright)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def report(
    server: EmbeddedTriton, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The page of a phantom, with maps and no thresholds."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    scan = str(phantoms / "ct0.nii.gz")
    assert main(["predict", scan, "--url", server.grpc_url, "--report", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def wrong() -> list[str]:
    """What pages have complained of."""
    return []


@pytest.fixture(autouse=True)
def nothing_is_wrong(wrong: list[str]) -> Iterator[None]:
    yield
    found = wrong.copy()
    wrong.clear()
    assert not found


@pytest.fixture(scope="module")
def show(browser: Browser, wrong: list[str]) -> Show:
    """Opens a page in a window of so many pixels, and waits until it can be used. It may ask for
    nothing but itself."""

    def show(path: Path, width: int = 1400, height: int = 1000) -> Page:
        asked: list[str] = []
        page = opened(browser, width, height)
        page.on("console", lambda message: wrong.extend(filter(None, [complaint(message)])))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
        return page

    return show


@pytest.fixture(scope="module")
def shown(show: Show, report: Path) -> Page:
    """`report`, open for all tests that leave it as they found it, but for what is chosen."""
    return show(report)
