"""Pages name files, commands, options and settings that exist; the README's Python runs."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from ctclip_client.cli.connection import FILE_VARIABLES, URL_VARIABLE
from ctclip_client.cli.program import command_words, parsed
from ctclip_server.embedded.server import EmbeddedTriton

from ..programs import run
from .support import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


COMMANDS = {words[0] for words in command_words()}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if "://" not in link]
    assert [link for link in files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page: Path) -> None:
    folders = "benchmarks|deploy|docs|scripts|tests"
    content = page.read_text(encoding="utf-8")
    files = re.findall(rf"(?:^|[ `])((?:{folders})/[\w./-]+\.\w+)", content, re.MULTILINE)
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_targets_exist(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)ctclip ([a-z][a-z-]+)", content, re.MULTILINE)) <= COMMANDS
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    lines = re.findall(r"(?:^|`|&& )make ((?:[a-z-]+ ?)+)", content, re.MULTILINE)
    assert {target for line in lines for target in line.split()} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_such_as_the_program_takes(page: Path) -> None:
    lines = re.findall(r"^ctclip [^…\n]+$", page.read_text(encoding="utf-8"), re.MULTILINE)
    for _, name, *arguments in (shlex.split(line, comments=True) for line in lines):
        assert parsed([name, *arguments]).run


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
        there = {path.name for path in (ROOT / folder).iterdir() if any(path.rglob("*.py"))}
        assert there == {room[:-1] for room in named if room.endswith("/")}


def test_python_of_the_readme(server: EmbeddedTriton, phantoms: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    (tmp_path / "scan.nii.gz").symlink_to(phantoms / "ct0.nii.gz")
    code = code.replace("localhost:8001", server.grpc_url)
    done = run([sys.executable, "-c", code], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 18


def test_settings_of_the_deployment_are_explained_in_the_example() -> None:
    names = set(re.findall(r"CTCLIP_[A-Z_]+", text("docs/deployment.md")))
    of_callers = {URL_VARIABLE, *FILE_VARIABLES.values()}
    assert names - of_callers
    assert all(f"#{name}=" in text(".env.example") for name in names - of_callers)


def test_options_of_triton_are_documented_ones() -> None:
    flags = json.loads(text("tests/data/triton_flags.json"))
    named = set(re.findall(r"`--([a-z-]+)", text("docs/deployment.md"))) - {"wait"}
    assert named
    assert named <= set(flags["flags"])


def test_the_queue_is_that_of_the_config() -> None:
    config = text("model_repository/ctclip_vision/config.pbtxt")
    (length,) = re.findall(r"max_queue_size: (\d+)", config)
    (wait_us,) = re.findall(r"default_timeout_microseconds: (\d+)", config)
    assert f"up to {length} such" in text("docs/deployment.md")
    assert f"after {int(wait_us) // 1_000_000} s, refused" in text("docs/deployment.md")
