"""docs/deployment.md: names of files, settings and options that exist."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from importlib.metadata import entry_points

import pytest

from ctclip_client.cli.connection import FILE_VARIABLES, URL_VARIABLE

from .support import ROOT

PAGE = ROOT / "docs" / "deployment.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_files_exist() -> None:
    files = re.findall(r"(?:^|[ `])((?:deploy|tests)/[\w./-]+\.\w+)", TEXT, re.MULTILINE)
    assert files
    assert all((ROOT / file).exists() for file in files)


def test_settings_are_explained_in_the_example() -> None:
    known = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = set(re.findall(r"CTCLIP_[A-Z_]+", TEXT))
    assert names
    of_callers = {URL_VARIABLE, *FILE_VARIABLES.values()}
    assert all(f"#{name}=" in known for name in names - of_callers)


def test_options_of_triton_are_documented_ones() -> None:
    flags = json.loads((ROOT / "tests/data/triton_flags.json").read_text(encoding="utf-8"))
    named = set(re.findall(r"`--([a-z-]+)", TEXT)) - {"wait"}
    assert named
    assert named <= set(flags["flags"])


def test_the_queue_is_that_of_the_config() -> None:
    config = (ROOT / "model_repository/ctclip_vision/config.pbtxt").read_text(encoding="utf-8")
    (length,) = re.findall(r"max_queue_size: (\d+)", config)
    (wait_us,) = re.findall(r"default_timeout_microseconds: (\d+)", config)
    assert f"up to {length} such" in TEXT
    assert f"after {int(wait_us) // 1_000_000} s, refused" in TEXT


@pytest.mark.parametrize("line", re.findall(r"^ctclip .+$", TEXT, re.MULTILINE))
def test_commands_are_such_as_the_program_takes(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    parser = argparse.ArgumentParser(exit_on_error=False)
    (point,) = entry_points(group="ctclip.commands", name=name)
    point.load().configure(parser)
    parser.parse_args(arguments)
