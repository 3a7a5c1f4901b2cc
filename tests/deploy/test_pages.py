"""Pages name files, commands, options, settings and messages that exist."""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path

import pytest

from ctclip_client.cli.connection import FILE_VARIABLES, URL_VARIABLE
from ctclip_client.cli.program import command_words

from .snippets import PAGES
from .support import ROOT

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
COMMANDS = {words[0] for words in command_words()}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def leads(page: Path, link: str) -> bool:
    return "://" in link or (page.parent / link).exists()


def headings(page: Path) -> set[str]:
    """As GitHub makes addresses of them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    assert [link for link, _ in links if not leads(page, link)] == []
    places = [(page.parent / link if link else page, place) for link, place in links
              if place and "://" not in link]  # fmt: skip
    assert [place for target, place in places if place not in headings(target)] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_exist(page: Path) -> None:
    folders = "benchmarks|deploy|docs|scripts|tests"
    content = page.read_text(encoding="utf-8")
    files = re.findall(rf"(?:^|[ `])((?:{folders})/[\w./-]+\.\w+)", content, re.MULTILINE)
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_targets_exist(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)ctclip ([a-z][a-z-]+)", content, re.MULTILINE)) <= COMMANDS
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    lines = re.findall(r"(?:^|`|&& )make ((?:[a-z-]+ ?)+)", content, re.MULTILINE)
    assert {target for line in lines for target in line.split()} <= targets


@functools.cache
def messages() -> str:
    """Every text of the sources, "…" for what a program puts in, and the scripts as they are."""
    found: list[str] = []
    for path in ROOT.glob("*/src/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    found += [path.read_text(encoding="utf-8") for path in (ROOT / "scripts").glob("*.sh")]
    return "\n".join(found)


def quoted() -> list[str]:
    """The messages in the boxes of docs/troubleshooting.md."""
    boxes = re.findall(r"^```text\n(.*?)^```$", text("docs/troubleshooting.md"), re.M | re.S)
    return [line for box in boxes for line in box.splitlines()]


@pytest.mark.parametrize("message", quoted())
def test_quoted_messages_are_those_of_the_programs(message: str) -> None:
    """Each piece between two "…" or colons, at which messages are put together."""
    said = re.sub(r"^(error|missing): ", "", message)
    pieces = [piece.strip(" .()") for piece in re.split("…|: ", said)]
    pieces = [piece for piece in pieces if len(piece) > 3]
    assert max(map(len, pieces)) >= 12
    assert [piece for piece in pieces if piece not in messages()] == []


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
