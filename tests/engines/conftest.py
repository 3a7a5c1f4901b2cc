"""Repositories in every precision, and their engines for an A100, built without one."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctclip_client.release.digest import sha256
from ctclip_export.engines.build import BuiltEngine, build_engines
from ctclip_export.engines.target import RTX
from ctclip_export.repository.build import Export


@pytest.fixture(scope="session")
def exported(exported_in: Callable[[str], Export]) -> Callable[[str], Path]:
    """The golden checkpoint's repository in a precision. Read-only."""
    return lambda precision: exported_in(precision).repository


@pytest.fixture(scope="session")
def compiled(
    exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[BuiltEngine]]:
    """Engines of a precision for compute capability 8.0, built once. Read-only."""

    @functools.cache
    def build(precision: str) -> list[BuiltEngine]:
        out = tmp_path_factory.mktemp(f"engines-{precision}")
        return build_engines(exported(precision), RTX, out=out)

    return build


@pytest.fixture
def copied(exported: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a repository, to damage."""

    def copy(precision: str = "fp32") -> Path:
        return Path(shutil.copytree(exported(precision), tmp_path / "repository"))

    return copy


@pytest.fixture
def vouch() -> Callable[[Path], None]:
    """Make `provenance.json` describe the graph beside it, as if it had been exported like this."""

    def vouch(graph: Path) -> None:
        path = graph.parent / "provenance.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"file_sha256": sha256(graph)}))

    return vouch
