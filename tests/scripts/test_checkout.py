"""What git sees of a checkout in which people work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ..programs import run

ROOT = Path(__file__).parents[2]
GIT = shutil.which("git") or "git"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An empty repository with this project's rules of what to ignore."""
    folder = tmp_path / "checkout"
    assert run([GIT, "init", "--quiet", folder]).returncode == 0
    shutil.copy(ROOT / ".gitignore", folder)
    return folder


def ignored(checkout: Path, *paths: str) -> set[str]:
    done = run([GIT, "-C", checkout, "check-ignore", *paths])
    assert done.returncode in {0, 1}, done.stderr
    return set(done.stdout.splitlines())


def test_links_to_another_disk_are_ignored_like_folders(checkout: Path, tmp_path: Path) -> None:
    names = (".venv", "build")
    for name in names:
        (checkout / name).symlink_to(tmp_path, target_is_directory=True)
    assert ignored(checkout, *names) == set(names)


def test_what_a_release_is_made_of_is_ignored_and_its_configs_are_not(checkout: Path) -> None:
    version = "model_repository/ctclip_check/1"
    made = {f"{version}/{name}" for name in ("provenance.json", "parity_runs.jsonl")}
    kept = {f"{version}/model.py", "model_repository/ctclip_check/config.pbtxt"}
    assert ignored(checkout, *made, *kept) == made
