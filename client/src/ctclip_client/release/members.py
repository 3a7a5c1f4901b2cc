"""The models of a repository that belong to its releases, and the versions they have."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.records import PROVENANCE
from ctclip_client.release.repository import (
    CONFIG,
    PLAN,
    VersionFolder,
    pins,
    plan_of,
    read_config,
    variant_configs,
    version_folders,
)

_PINNED = re.compile(r"\bmodel_version\s*:\s*(\d+)")  # -1, "the newest", pins none
_REMEDY = "Name a repository that ctclip export has written."


@dataclass(frozen=True)
class Members:
    """What a release of this repository consists of; other models in it are left alone.

    Everything is read from the disk when it is asked for: a promotion changes it.

    steps: models whose files an export made. ensembles: models wired from steps only.
    """

    repository: Path
    steps: tuple[str, ...]
    ensembles: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every member."""
        return self.steps + self.ensembles

    def folder(self, model: str, version: int) -> Path:
        """`MODEL/VERSION` of a member."""
        return self.repository / model / str(version)

    def config(self, model: str) -> Path:
        """The default config of a member."""
        return self.repository / model / CONFIG

    def config_files(self, model: str) -> tuple[Path, ...]:
        """All configs of a member: the default and the variants."""
        return (self.config(model), *variant_configs(self.repository / model))

    def versions(self, model: str) -> frozenset[int]:
        """Version folders of a member."""
        return frozenset(version_folders(self.repository / model))

    def complete_versions(self) -> tuple[int, ...]:
        """Versions that every member has, ascending."""
        return tuple(sorted(frozenset.intersection(*map(self.versions, self.all))))

    def pinned(self) -> frozenset[int]:
        """Versions that the ensembles on disk pin: one, or two in the middle of a switch."""
        return frozenset(
            version for name in self.ensembles for version in pins(read_config(self.config(name)))
        )

    def engines(self, version: int) -> dict[str, str]:
        """SHA-256 by model of every TensorRT plan of a version that one of the configs would load.

        A plan that is not called `model.plan` goes by `MODEL/FILE`: no parity step runs it.

        Raises: Unreadable.
        """
        found = {}
        for name in self.steps:
            folder = VersionFolder(self.folder(name, version), version)
            for file in {plan_of(read_config(path)) for path in self.config_files(name)} - {""}:
                if folder.has(file):
                    found[name if file == PLAN else f"{name}/{file}"] = folder.sha256(file)
        return found


def read_members(repository: Path) -> Members:
    """Find the members of a repository's releases.

    Raises:
        Unreadable: no repository, none of an export, or a damaged config.
        InvalidInput: an ensemble that cannot be switched with a release.
    """
    if not repository.is_dir():
        raise Unreadable(f"repository: {repository} is not a folder.", _REMEDY)
    configs = {
        folder.name: read_config(folder / CONFIG)
        for folder in sorted(repository.iterdir())
        if folder.is_dir()
    }
    steps = [
        name
        for name, config in configs.items()
        if config.platform != "ensemble"
        and any(version.has(PROVENANCE) for version in version_folders(repository / name).values())
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


def pinned_version(members: Members) -> int:
    """The one version that all ensembles pin: what a server that starts now would serve.

    Raises:
        InvalidInput: there are two, in the middle of a promotion.
    """
    return _only(members.repository, members.pinned())


def pinned_version_by_text(repository: Path) -> int:
    """The same for all ensembles of a folder, read without Triton's protobuf: the image that builds
    engines has none.

    Raises:
        Unreadable: no ensemble pins a version.
        InvalidInput: they pin several.
    """
    return _only(
        repository,
        {
            int(version)
            for config in repository.glob(f"*/{CONFIG}")
            for version in _PINNED.findall(config.read_text("utf-8"))
        },
    )


def _only(repository: Path, pinned: Collection[int]) -> int:
    if not pinned:
        raise Unreadable(f"repository: no ensemble of {repository} pins a version.", _REMEDY)
    if len(pinned) > 1:
        raise InvalidInput(
            f"repository: the ensembles of {repository} pin versions {sorted(pinned)}, expected "
            "one.",
            "Finish the promotion first: ctclip promote, or ctclip rollback.",
        )
    return min(pinned)


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
