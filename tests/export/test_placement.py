"""A repository is put into place whole, wherever the folder really is, and killed exports leave no
trace for long."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ctclip_client.contract import CLASSFINE, CLASSIFY, VISION
from ctclip_client.errors import InvalidInput
from ctclip_export.repository.build import OWNED
from ctclip_export.repository.placement import staged


def write(folder: Path, content: str, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(content)


def content(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in folder.glob("*/config.pbtxt")}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_classifier_of_an_earlier_release_does_not_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old", VISION.name, CLASSFINE.name, CLASSIFY.name, "theirs")
    (out / VISION.name / "1").mkdir()
    with staged(out, OWNED) as staging:
        write(staging, "new", VISION.name)
    assert content(out) == {VISION.name: "new", "theirs": "old"}
    assert names(out / VISION.name) == ["config.pbtxt"]  # replaced whole
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("again", [0, 1, 2, 3])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_what_was_removed_comes_back_when_placing_is_interrupted_and_that_is_too(
    step: int, again: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write(out, "old", VISION.name, CLASSFINE.name, CLASSIFY.name)
    rename, calls = Path.rename, 0

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls in (step, step + again):
            raise KeyboardInterrupt
        return rename(self, target)

    def export() -> None:
        with staged(out, OWNED) as staging:
            write(staging, "new", VISION.name, "ctclip_additional")
            monkeypatch.setattr(Path, "rename", interrupted)

    with pytest.raises(KeyboardInterrupt):
        export()
    assert content(out) == dict.fromkeys((VISION.name, CLASSFINE.name, CLASSIFY.name), "old")
    assert names(tmp_path) == ["out"]


def test_a_link_to_another_disk_is_followed(tmp_path: Path) -> None:
    shared = Path("/dev/shm")  # noqa: S108 (a file system of its own)
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    real = shared / f"ctclip-test-{os.getpid()}"
    real.mkdir()
    try:
        write(real, "old", VISION.name)
        (tmp_path / "out").symlink_to(real)
        with staged(tmp_path / "out") as staging:
            write(staging, "new", VISION.name)
        assert content(real) == {VISION.name: "new"}
        assert (tmp_path / "out").is_symlink()
        assert not list(shared.glob(f".{real.name}.staging-*"))
    finally:
        for file in real.rglob("*.pbtxt"):
            file.unlink()
        for folder in [*real.iterdir(), real]:
            folder.rmdir()


def test_a_disk_mounted_at_the_target_is_worked_on_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write(out, "old", VISION.name)
    rename = Path.rename

    def across(self: Path, target: Path) -> Path:
        if self.is_relative_to(out) != target.is_relative_to(out):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across)
    with staged(out) as staging:
        write(staging, "new", VISION.name)
        assert names(tmp_path) == ["out"]
    assert content(out) == {VISION.name: "new"}
    assert names(out) == [VISION.name]


def test_a_full_disk_is_said_and_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old", VISION.name)
    with pytest.raises(InvalidInput, match="No space left on device") as caught, staged(out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "Make room" in caught.value.remedy
    assert content(out) == {VISION.name: "old"}
    assert names(tmp_path) == ["out"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = tmp_path / ".out.staging-dead"
    (dead / "new").mkdir(parents=True)
    with staged(tmp_path / "out") as alive:
        assert not dead.exists()
        with staged(tmp_path / "other"), staged(tmp_path / "out"):
            assert alive.is_dir()
