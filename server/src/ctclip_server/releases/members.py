"""The models of a repository that belong to its releases, and the versions they have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_server.repository import read_config

PROVENANCE = "provenance.json"
_REMEDY = "A repository is what ctclip export makes."


@dataclass(frozen=True)
class Members:
    """What a release of this repository consists of; other models in it are left alone.

    steps: models whose files an export made. ensembles: models wired from steps only.
    """

    repository: Path
    steps: tuple[str, ...]
    ensembles: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every member."""
        return self.steps + self.ensembles

    def config(self, model: str) -> Path:
        """The default config of a member."""
        return self.repository / model / "config.pbtxt"

    def config_files(self, model: str) -> tuple[Path, ...]:
        """All configs of a member: the default and the variants."""
        variants = sorted((self.repository / model / "configs").glob("*.pbtxt"))
        return (self.config(model), *variants)

    def versions(self, model: str) -> frozenset[int]:
        """Version folders of a member."""
        return frozenset(version for version, _ in _version_folders(self.repository / model))

    def complete_versions(self) -> tuple[int, ...]:
        """Versions that every member has, ascending."""
        return tuple(sorted(frozenset.intersection(*map(self.versions, self.all))))

    def pinned(self) -> frozenset[int]:
        """Versions that the ensembles on disk pin: one, or two in the middle of a switch."""
        return frozenset(
            version for name in self.ensembles for version in pins(read_config(self.config(name)))
        )


def read_members(repository: Path) -> Members:
    """Find the members of a repository's releases.

    Raises:
        Unreadable: no repository, none of an export, or a damaged config.
        InvalidInput: an ensemble that cannot be switched with a release.
    """
    if not repository.is_dir():
        raise Unreadable(f"repository: {repository} is not a folder.", _REMEDY)
    configs = {
        folder.name: read_config(folder / "config.pbtxt")
        for folder in sorted(repository.iterdir())
        if folder.is_dir()
    }
    steps = [
        name
        for name, config in configs.items()
        if config.platform != "ensemble"
        and any((path / PROVENANCE).is_file() for _, path in _version_folders(repository / name))
    ]
    ensembles = [
        name for name, config in configs.items() if _is_member(name, config, frozenset(steps))
    ]
    if not steps or not ensembles:
        raise Unreadable(
            f"repository: no model of {repository} has a {PROVENANCE}, or no ensemble uses one.",
            _REMEDY,
        )
    return Members(repository, tuple(steps), tuple(ensembles))


def pins(config: Any) -> frozenset[int]:
    """Versions of the steps that an ensemble's config pins."""
    return frozenset(int(step.model_version) for step in config.ensemble_scheduling.step)


def _is_member(name: str, config: Any, steps: frozenset[str]) -> bool:
    used = {step.model_name for step in config.ensemble_scheduling.step}
    if not used & steps:
        return False
    if strangers := sorted(used - steps):
        raise InvalidInput(
            f"repository: the ensemble '{name}' joins models of a release with '{strangers[0]}', "
            "which is of none: it cannot be switched with the release.",
            "Move it into a repository of its own that calls the release's ensembles.",
        )
    versions = pins(config)
    if len(versions) != 1 or min(versions) < 1:
        raise InvalidInput(
            f"repository: the ensemble '{name}' pins its steps to {sorted(versions)}, expected "
            "the same version for all.",
            "Otherwise an answer could mix two releases. Export the repository again.",
        )
    return True


def _version_folders(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir():
        if path.name.isdecimal() and path.is_dir():
            yield int(path.name), path
