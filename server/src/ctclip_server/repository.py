"""What can be said about a model repository before Triton sees it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.repository import (
    CONFIG,
    backend_of,
    check_variant,
    config_path,
    loaded_versions,
    read_config,
    version_folders,
)
from ctclip_client.release.served_graphs import file_of
from ctclip_client.system.terminal import command_line
from ctclip_server.embedded.installation import BACKENDS


def _export(repository: Path) -> str:
    files = ("--checkpoint", "F", "--text-model", "DIR", "--out", repository)
    return f"Make its files first: {command_line('ctclip', 'export', *files)}"


def check_repository(
    repository: Path, config_name: str | None = None, models: Collection[str] | None = None
) -> tuple[str, ...]:
    """Check that every model has a readable config and the files it names; return the models.

    A missing model.py would leave Triton waiting for its stub forever, and a fresh checkout has
    configs but no weights: both are better said before the start.

    Args:
        repository: a Triton model repository.
        config_name: the variant that will be served.
        models: the models that will be loaded; None is all of them.

    Raises:
        Unreadable: a folder, a config or a file is missing or damaged.
        InvalidInput: no model has a variant of that name, or there is no model to load.
    """
    if not repository.is_dir():
        raise Unreadable(f"repository: {repository} is not a folder.", _export(repository))
    folders = sorted(path for path in repository.iterdir() if path.is_dir())
    configs = {path.name: config_path(path, config_name) for path in folders}
    if not any(path.is_file() for path in configs.values()):
        raise Unreadable(
            f"repository: no folder in {repository} has a {CONFIG}.",
            _export(repository),
        )
    if config_name is not None:
        check_variant(repository, config_name)
    loaded = tuple(configs) if models is None else tuple(models)
    for name in loaded:
        if name not in configs:
            raise InvalidInput(
                f"models to load: {repository} has no '{name}'.", f"It has {', '.join(configs)}."
            )
        _check_model(repository / name, configs[name])
    return loaded


def served_backends() -> tuple[str, ...]:
    """Backends of the embedded Triton: the wheel's own and the drop-ins."""
    return ("python", *(path.parent.name for path in sorted(BACKENDS.glob("*/model.py"))))


def _check_model(folder: Path, config_path: Path) -> None:
    config = read_config(config_path)
    versions = sorted(version_folders(folder))
    served = loaded_versions(config, versions)
    if not served:
        raise Unreadable(f"'{folder.name}' has no version folder to serve.", _export(folder.parent))
    if config.platform == "ensemble":
        return
    backend = backend_of(config)
    if backend not in served_backends():
        raise InvalidInput(
            f"'{folder.name}' wants the backend {backend or '(none stated)'}; the embedded Triton "
            f"has {', '.join(served_backends())}.",
            "Choose another variant with --config-name, or serve it with the official container.",
        )
    name = file_of(config)
    for version in served:
        if not (folder / str(version) / name).exists():
            raise Unreadable(
                f"'{folder.name}' version {version} has no {name}.", _export(folder.parent)
            )
