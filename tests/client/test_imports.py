"""Imports point one way, between distributions and between the rooms of the client."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "client": set(),
    "export": {"client"},
    "analysis": {"client"},
    "server": {"client"},
    "benchmarks": {"analysis", "client", "export", "server"},
}
PACKAGES = {
    "ctclip_client": "client",
    "ctclip_export": "export",
    "ctclip_analysis": "analysis",
    "ctclip_server": "server",
    "ctclip_bench": "benchmarks",
}
PROGRAM = ("cli", "doctor", "__main__")
"""Rooms of the client that are no library."""


@functools.cache
def imports() -> tuple[tuple[Path, str], ...]:
    """(file below the root, name of a module or of something in it) of every import of ours."""
    found: list[tuple[Path, str]] = []
    for distribution in MAY_IMPORT:
        source = ROOT / distribution / "src"
        for path in sorted(source.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    here = path.relative_to(source).parts[: -node.level] if node.level else ()
                    module = ".".join([*here, *([node.module] if node.module else [])])
                    names = [f"{module}.{alias.name}" for alias in node.names]
                else:
                    continue
                found += [(path.relative_to(ROOT), name) for name in names]
    return tuple(found)


@pytest.mark.parametrize("distribution", MAY_IMPORT)
def test_distributions_import_those_below_them(distribution: str) -> None:
    found = {
        PACKAGES[package]
        for path, name in imports()
        if path.parts[0] == distribution and (package := name.partition(".")[0]) in PACKAGES
    }
    assert found == {distribution} | MAY_IMPORT[distribution]


def test_the_library_does_not_know_the_command_line() -> None:
    library = [
        (path, name) for path, name in imports()
        if path.parts[:3] == ("client", "src", "ctclip_client")
        and path.relative_to("client/src/ctclip_client").with_suffix("").parts[0] not in PROGRAM
    ]  # fmt: skip
    assert len(library) > 100
    wrong = [
        f"{path}: {name}" for path, name in library if name.startswith(
            tuple(f"ctclip_client.{room}" for room in PROGRAM)
        )
    ]  # fmt: skip
    assert wrong == []
