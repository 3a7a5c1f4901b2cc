"""Repositories in every precision, and their engines for an A100, built without one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_export.checkpoint import TextModel, load_checkpoint
from ctclip_export.engines.build import Engine, build_engines
from ctclip_export.engines.target import RTX
from ctclip_export.hashing import sha256
from ctclip_export.repository.build import export_repository

from ..conftest import Golden


@pytest.fixture(scope="session")
def exported(
    golden: Golden,
    text_model: TextModel,
    phantoms: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """The golden checkpoint with its ClassFine head, exported once a precision. Read-only."""
    made: dict[str, Path] = {}

    def export(precision: str) -> Path:
        if precision not in made:
            out = tmp_path_factory.mktemp(precision) / "repository"
            checkpoint = load_checkpoint(
                golden.checkpoint, text_model, golden.geometry, golden.folder / "ct_lipro.pt"
            )
            export_repository(
                checkpoint, text_model, golden.geometry, PUBLISHED_FINDINGS, out,
                precision=precision, calibration_folder=phantoms if precision == "int8" else None,
            )  # fmt: skip
            made[precision] = out
        return made[precision]

    return export


@pytest.fixture(scope="session")
def compiled(
    exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Engine]]:
    """Engines of a precision for compute capability 8.0, built once. Read-only."""
    made: dict[str, list[Engine]] = {}

    def build(precision: str) -> list[Engine]:
        if precision not in made:
            out = tmp_path_factory.mktemp(f"engines-{precision}")
            made[precision] = build_engines(exported(precision), RTX, out=out)
        return made[precision]

    return build


@pytest.fixture
def copied(exported: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A repository of one's own, to damage."""

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
