"""A model repository as it lies on disk, read without judging it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ctclip_client.doctor.configs import parse_config, pinned_versions
from ctclip_client.doctor.subject import CONFIG
from ctclip_client.errors import CTClipError, Unreadable

PROVENANCE = "provenance.json"

_LARGEST_TEXT_BYTES = 64 << 20
_EXPORT_AGAIN = "Export the repository again (ctclip export)."
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Record:
    """A `provenance.json`: what lies beside it (`file`), its hash, the vocabulary's, the release.

    release: what PROVENANCE tells a client; its structure has been looked at by `read_record`.
    """

    file: str
    file_sha256: str
    vocabulary_sha256: str
    release: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The release's name."""
        return str(self.release["release"])


@dataclass
class VersionFolder:
    """`MODEL/VERSION`. `record` raises Unreadable where there is none that can be read."""

    path: Path
    number: int
    _hashes: dict[str, str] = field(default_factory=dict)

    @cached_property
    def record(self) -> Record:
        return read_record(self.path / PROVENANCE)

    def has(self, name: str) -> bool:
        """Whether there is a regular file of this name."""
        return (self.path / name).is_file()

    def sha256(self, name: str, advance: Callable[[int], None] = lambda _: None) -> str:
        """SHA-256 of a file here, hexadecimal; computed once.

        Raises:
            Unreadable: it cannot be read.
        """
        if name not in self._hashes:
            self._hashes[name] = sha256(self.path / name, advance)
        return self._hashes[name]


@dataclass
class ModelFolder:
    """One folder of a repository. `config` raises Unreadable where it does not parse."""

    path: Path
    versions: Mapping[int, VersionFolder]

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config(self) -> Any:
        return read_config(self.path / CONFIG)

    def variants(self) -> tuple[Path, ...]:
        """Configs that `--model-config-name` chooses."""
        return tuple(sorted((self.path / "configs").glob("*.pbtxt")))

    def parsed(self) -> Any | None:
        """The config, or None where there is none that parses."""
        try:
            return self.config
        except CTClipError:
            return None


@dataclass
class Repository:
    """models: folders with a config or a name of ours. strays: all other folders' names."""

    path: Path
    models: Mapping[str, ModelFolder]
    strays: tuple[str, ...]

    def records(self) -> dict[tuple[str, int], Record]:
        """(model, version) -> record, of all that can be read."""
        found = {}
        for name, model in self.models.items():
            for number, version in model.versions.items():
                try:
                    found[name, number] = version.record
                except CTClipError:
                    continue
        return found

    def main_release(self) -> Record | None:
        """The record that most models share, in the version that most ensembles' steps are
        pinned to; in the newest one where none of that version can be read."""
        records = self.records()
        if not records:
            return None
        pins = Counter(
            version
            for model in self.models.values()
            if (config := model.parsed()) is not None
            for version in pinned_versions(config).values()
        )
        numbers = {number for _, number in records}
        pinned = [number for number, _ in pins.most_common() if number in numbers]
        served = pinned[0] if pinned else max(numbers)
        candidates = [record for (_, number), record in records.items() if number == served]
        name, _ = Counter(record.name for record in candidates).most_common(1)[0]
        return next(record for record in candidates if record.name == name)


def read_repository(path: Path, known: Mapping[str, object]) -> Repository:
    """List a repository; files are opened when they are asked for.

    Raises:
        Unreadable: the folder cannot be listed.
    """
    try:
        folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
        models, strays = {}, []
        for folder in folders:
            if (folder / CONFIG).is_file() or folder.name in known:
                versions = {
                    int(entry.name): VersionFolder(entry, int(entry.name))
                    for entry in sorted(folder.iterdir())
                    if _is_version(entry.name) and entry.is_dir()
                }
                models[folder.name] = ModelFolder(folder, versions)
            else:
                strays.append(folder.name)
    except OSError as error:
        raise Unreadable(
            f"{error.filename or path}: {error.strerror or error}.",
            "Check the permission to read the repository.",
        ) from error
    return Repository(path, models, tuple(strays))


def read_config(path: Path) -> Any:
    """Read and parse one config.

    Raises:
        Unreadable: it is missing or no model configuration.
    """
    return parse_config(read_bytes(path), f"{path.parent.name}/{path.name}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        Unreadable: the file is missing or holds something else.
    """
    content = read_bytes(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path.name}: not JSON ({error}).", _EXPORT_AGAIN) from error
    if not isinstance(value, dict):
        raise Unreadable(
            f"{path.name}: a {type(value).__name__}, expected a JSON object.", _EXPORT_AGAIN
        )
    return value


def read_record(path: Path) -> Record:
    """Read a `provenance.json`.

    Raises:
        Unreadable: it is missing, cut short, or lacks what the contract promises.
    """
    content = read_json(path)
    try:
        release = content["release"]
        geometry = release["geometry"]
        shapes = [geometry[name] for name in ("volume_shape", "token_shape")]
        record = Record(
            file=_text(content, "file"),
            file_sha256=_text(content, "file_sha256"),
            vocabulary_sha256=_text(content, "vocabulary_sha256"),
            release=release,
        )
        _text(release, "release")
        _text(release, "precision")
        _text(release["checkpoint"], "name")
        sound = (
            all(len(shape) == 3 and all(type(n) is int for n in shape) for shape in shapes)
            and isinstance(release["checkpoint"]["random_weights"], bool)
            and isinstance(release["findings"], list)
            and isinstance(release["prompts"], list)
            and "/" not in record.file
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(
            f"{path.name}: incomplete, {type(error).__name__}: {error}.", _EXPORT_AGAIN
        ) from error
    if not sound:
        raise Unreadable(f"{path.name}: an entry is of the wrong kind.", _EXPORT_AGAIN)
    return record


def read_bytes(path: Path) -> bytes:
    """Read a small file whole.

    Raises:
        Unreadable: missing, no regular file, or far too large for text.
    """
    try:
        if not path.is_file():
            state = "not a file" if path.exists() else "missing"
            raise Unreadable(f"{path.name}: {state}.", _EXPORT_AGAIN)
        if path.stat().st_size > _LARGEST_TEXT_BYTES:
            raise Unreadable(f"{path.name}: {path.stat().st_size:,} bytes of text.", _EXPORT_AGAIN)
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror or error}.", _EXPORT_AGAIN) from error


def sha256(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of a file, hexadecimal; `advance` is told the bytes as they are read.

    Raises:
        Unreadable: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                advance(len(chunk))
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror or error}.", _EXPORT_AGAIN) from error
    return digest.hexdigest()


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not (len(name) > 1 and name.startswith("0"))


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content[key]
    if not isinstance(value, str):
        raise TypeError(f"'{key}' is no text")
    return value
