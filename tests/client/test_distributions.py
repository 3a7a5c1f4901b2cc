"""Remedies name folders of a checkout: what an index has under our names may be a stranger's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ctclip_client.system.distributions import COMMANDS, INSPECTORS, how_to_install

ROOT = Path(__file__).parents[2]
FOLDERS = ("client", "export", "analysis", "server", "benchmarks")


def project(folder: str) -> dict[str, Any]:
    content = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
    return dict(content["project"])


NAMES = {str(project(folder)["name"]): folder for folder in FOLDERS}


@pytest.mark.parametrize("name", NAMES)
def test_everything_of_this_project_that_it_needs_is_named(name: str) -> None:
    needs = (need.partition("[")[0] for need in project(NAMES[name])["dependencies"])
    needed = {need for need in needs if need in NAMES}
    named = how_to_install(name).partition("pip install ")[2].split()
    assert set(named) == {f"./{NAMES[one]}" for one in {name, *needed}}


def test_nothing_says_to_take_our_names_from_an_index() -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder / "src").rglob("*.py"):
            assert not re.search(r"pip install \S*ctclip", path.read_text()), path


def test_others_distributions_are_the_others_to_install() -> None:
    assert how_to_install("elsewhere") == "Install elsewhere again, from where it came."


@pytest.mark.parametrize(
    ("group", "listed"), [("ctclip.commands", COMMANDS), ("ctclip.inspectors", INSPECTORS)]
)
def test_what_each_of_them_brings_is_listed(group: str, listed: dict[str, str]) -> None:
    brought = {
        point: name
        for name, folder in NAMES.items()
        for point in project(folder).get("entry-points", {}).get(group, {})
        if name != "ctclip-client"
    }
    assert listed == brought
