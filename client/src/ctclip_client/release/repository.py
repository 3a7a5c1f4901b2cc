"""A model repository as it lies on disk: its models, their versions, configs and records.

Files are opened when they are asked for, and what is damaged says so then. Which of the models are
released together is told by `members`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ctclip_client.errors import CTClipError, InvalidInput, Unreadable
from ctclip_client.release.digest import sha256
from ctclip_client.release.json_records import EXPORT_AGAIN, read_bytes
from ctclip_client.release.records import ModelRecord, ReleaseRecord, read_model_record

CONFIG = "config.pbtxt"
VARIANTS = "configs"
_EVERY_FOLDER = "Every folder at the top of a repository is a model: remove it if it is none."
_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}
PLAN = "model.plan"


@dataclass
class VersionFolder:
    """`MODEL/VERSION`."""

    path: Path
    number: int
    _hashes: dict[str, str] = field(default_factory=dict)

    @cached_property
    def record(self) -> ModelRecord:
        """Its `provenance.json`. Raises: Unreadable."""
        return read_model_record(self.path)

    def has(self, name: str) -> bool:
        """Whether there is a regular file of this name."""
        return (self.path / name).is_file()

    def sha256(self, name: str, advance: Callable[[int], None] = lambda _: None) -> str:
        """SHA-256 of a file here, hexadecimal; computed once. Raises: Unreadable."""
        if name not in self._hashes:
            try:
                self._hashes[name] = sha256(self.path / name, advance)
            except OSError as error:
                raise Unreadable(
                    f"{self.path / name}: {error.strerror or error}.", EXPORT_AGAIN
                ) from error
        return self._hashes[name]


@dataclass
class ModelFolder:
    """`MODEL`: `config.pbtxt`, `configs/NAME.pbtxt` that `--config-name` chooses, and versions."""

    path: Path
    versions: Mapping[int, VersionFolder]

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config(self) -> Any:
        """The default config as Triton's ModelConfig message. Raises: Unreadable."""
        return read_config(self.path / CONFIG, unknown_fields=False)

    def parsed(self) -> Any | None:
        """The default config, or None where there is none that parses."""
        try:
            return self.config
        except CTClipError:
            return None

    def variants(self) -> tuple[Path, ...]:
        """Configs beside the default one."""
        return variant_configs(self.path)


@dataclass(frozen=True)
class Repository:
    """models: folders with a config or a known name. strays: all other folders' names."""

    path: Path
    models: Mapping[str, ModelFolder]
    strays: tuple[str, ...]

    def records(self) -> dict[tuple[str, int], ModelRecord]:
        """(model, version) -> record, of all that can be read."""
        found = {}
        for name, model in self.models.items():
            for number, version in model.versions.items():
                try:
                    found[name, number] = version.record
                except CTClipError:
                    continue
        return found

    def main_release(self) -> ReleaseRecord | None:
        """The release that most models share, in the version that most ensembles' steps are
        pinned to; in the newest one where no record of that version can be read."""
        records = self.records()
        if not records:
            return None
        configs = [config for model in self.models.values() if (config := model.parsed())]
        asked = Counter(
            step.model_version for config in configs for step in config.ensemble_scheduling.step
        )
        numbers = {number for _, number in records}
        pinned = [number for number, _ in asked.most_common() if number in numbers]
        served = pinned[0] if pinned else max(numbers)
        releases = [record.release for (_, number), record in records.items() if number == served]
        name, _ = Counter(release.name for release in releases).most_common(1)[0]
        return next(release for release in releases if release.name == name)


def read_repository(path: Path, known: Collection[str] = ()) -> Repository:
    """List a repository. known: names that are models even without a config.

    Raises:
        Unreadable: no folder, or one that cannot be listed.
    """
    try:
        folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
        models, strays = {}, []
        for folder in folders:
            if (folder / CONFIG).is_file() or folder.name in known:
                models[folder.name] = ModelFolder(folder, version_folders(folder))
            else:
                strays.append(folder.name)
    except OSError as error:
        raise Unreadable(
            f"repository: {error.filename or path}: {error.strerror or error}.",
            "Name a folder that ctclip export has written, and that may be read.",
        ) from error
    return Repository(path, models, tuple(strays))


def version_folders(folder: Path) -> dict[int, VersionFolder]:
    """A model's version folders by number, as Triton reads them: 01 is none. Raises: OSError."""
    found = {}
    for entry in sorted(folder.iterdir()):
        name = entry.name
        is_number = name.isascii() and name.isdigit() and str(int(name)) == name
        if is_number and entry.is_dir():
            found[int(name)] = VersionFolder(entry, int(name))
    return found


def variant_configs(folder: Path) -> tuple[Path, ...]:
    """A model's configs beside the default one, which `--config-name` chooses."""
    return tuple(sorted((folder / VARIANTS).glob("*.pbtxt")))


def read_config(path: Path, *, unknown_fields: bool = True) -> Any:
    """Parse a config into Triton's own ModelConfig message.

    unknown_fields: whether fields are taken that this machine's Triton protobuf does not know, as
    the config of a newer Triton may have.

    Raises:
        Unreadable: it is missing or no model configuration.
    """
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    content = read_bytes(path, _EVERY_FOLDER)
    try:
        return text_format.Parse(
            content.decode("utf-8"),
            model_config_pb2.ModelConfig(),
            allow_unknown_field=unknown_fields,
        )
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise Unreadable(
            f"{path}: Triton's protobuf does not parse it: {' '.join(str(error).split())}.",
            "Correct the line, or export the repository again.",
        ) from error


def config_path(folder: Path, config_name: str | None) -> Path:
    """The config that Triton takes for a model under `--model-config-name`."""
    variant = folder / VARIANTS / f"{config_name}.pbtxt"
    return variant if config_name and variant.is_file() else folder / CONFIG


def check_variant(repository: Path, config_name: str) -> None:
    """Raises: InvalidInput if no model of a repository has a config of that name."""
    variants = {path.stem for path in repository.glob(f"*/{VARIANTS}/*.pbtxt")}
    if config_name not in variants:
        raise InvalidInput(
            f"--config-name: no model of {repository} has {VARIANTS}/{config_name}.pbtxt.",
            f"Variants that it has: {', '.join(sorted(variants)) or 'none'}.",
        )


def loaded_versions(config: Any, versions: Sequence[int]) -> list[int]:
    """Of the ascending versions that a model has, those that Triton loads: by default the last."""
    kind = config.version_policy.WhichOneof("policy_choice")
    if kind == "all":
        return list(versions)
    if kind == "specific":
        return sorted(config.version_policy.specific.versions)
    count = config.version_policy.latest.num_versions if kind == "latest" else 1
    return list(versions[-count:])


def backend_of(config: Any) -> str:
    """The backend of a config; older ones state a platform instead. "ensemble" for ensembles."""
    return str(config.backend or _PLATFORMS.get(config.platform, config.platform))


def plan_of(config: Any) -> str:
    """File name of the TensorRT plan that a config loads; "" if it loads none."""
    return str(config.default_model_filename or PLAN) if backend_of(config) == "tensorrt" else ""


def pins(config: Any) -> frozenset[int]:
    """Versions of the steps that an ensemble's config pins; -1 is Triton's "the latest"."""
    return frozenset(int(step.model_version) for step in config.ensemble_scheduling.step)
