"""Make the pictures of the README, docs/images/, from what the demo has left.

    make demo
    .venv/bin/python scripts/pictures.py

One run of `ctclip predict` gives both: terminal.svg is what it prints, report.png the page that it
writes, in the chromium of this machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
COLUMNS = 88
WINDOW = {"width": 1400, "height": 980}
# WebGL by software, so that every machine draws the same.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
COMMAND = ("predict", "scan.nii.gz", "--report", "report.html")


def predict(scan: Path, repository: Path, folder: Path) -> str:
    """Run the command in `folder`; return what it prints, with its colours."""
    (folder / "scan.nii.gz").symlink_to(scan.resolve())
    ctclip = Path(sys.executable).with_name("ctclip")
    done = subprocess.run(
        [ctclip, *COMMAND, "--repository", repository.resolve()],
        cwd=folder, env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def terminal(printed: str) -> str:
    """The SVG of a terminal."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(Text(f"$ ctclip {' '.join(COMMAND)}\n", "bold"))
    console.print(Text.from_ansi(printed))
    svg = console.export_svg(title="ctclip predict", theme=DIMMED_MONOKAI)
    # The reader's own font: pictures fetch nothing.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", "ui-monospace")


def page(report: Path, chromium: str) -> bytes:
    """The PNG of the page's first screen, with a map that shows its strongest tokens."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        shown = browser.new_page(viewport=WINDOW)
        shown.goto(report.as_uri())
        shown.wait_for_selector("html[data-ready]")
        shown.locator("#least").fill("55")
        shown.locator("#axial").fill("70")
        shown.evaluate("document.activeElement.blur()")
        shown.wait_for_timeout(500)
        png = shown.screenshot()
        browser.close()
    small = BytesIO()
    Image.open(BytesIO(png)).convert("RGB").save(small, "PNG", optimize=True)
    return small.getvalue()


def main() -> None:
    """Make both."""
    demo = ROOT / "build" / "demo"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scan", type=Path, default=demo / "data" / "cxr.nii.gz")
    parser.add_argument("--repository", type=Path, default=demo / "published" / "model_repository")
    args = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is needed (Debian: apt-get install chromium)")
    for path in (args.scan, args.repository):
        if not path.exists():
            sys.exit(f"{path} is missing: make demo makes it")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        printed = predict(args.scan, args.repository, Path(folder))
        (IMAGES / "terminal.svg").write_text(terminal(printed), encoding="utf-8")
        (IMAGES / "report.png").write_bytes(page(Path(folder) / "report.html", chromium))
    for path in sorted(IMAGES.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main()
