"""Pages name files, commands, options and targets that exist; the README's Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from ctclip_server.embedded.server import EmbeddedTriton

from .support import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if "://" not in link]
    assert [link for link in files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_targets_exist(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    commands = {entry.name for entry in entry_points(group="ctclip.commands")}
    assert set(re.findall(r"(?:^|`)ctclip ([a-z][a-z-]+)", content, re.MULTILINE)) <= commands
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    lines = re.findall(r"(?:^|`|&& )make ((?:[a-z-]+ ?)+)", content, re.MULTILINE)
    assert {target for line in lines for target in line.split()} <= targets


def test_contributing_names_every_folder_and_none_that_is_not_there() -> None:
    page = text("CONTRIBUTING.md")
    known = [path.name for path in ROOT.iterdir()]
    paths = re.findall(r"`([\w./-]+/[\w./-]*)`", page)
    rooted = [path for path in paths if path.split("/")[0] in known]
    assert len(rooted) > 10
    assert [path for path in rooted if not (ROOT / path).exists()] == []
    for folder, rooms in re.findall(r"^\| `([\w/]+/src/\w+)/` \| (.*) \|$", page, re.MULTILINE):
        named = re.findall(r"`([\w]+(?:/|\.py))`", rooms)
        assert [room for room in named if not (ROOT / folder / room).exists()] == []
        there = {path.name for path in (ROOT / folder).iterdir() if path.is_dir()}
        assert there - {"__pycache__"} == {room[:-1] for room in named if room.endswith("/")}


def test_python_of_the_readme(server: EmbeddedTriton, phantoms: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    (tmp_path / "scan.nii.gz").symlink_to(phantoms / "ct0.nii.gz")
    code = code.replace("localhost:8001", server.grpc_url)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 18
