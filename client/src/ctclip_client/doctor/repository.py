"""A model repository: everything that can be told without opening a graph.

What is inside the ONNX files is looked at by `ctclip-export`, see `inspectors`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from ctclip_client.contract import (
    CHECK,
    TOKENIZER,
    VERSION,
    Ensemble,
    Model,
)
from ctclip_client.doctor.configs import (
    KNOWN,
    OPTIONAL,
    REQUIRED,
    Part,
    differences,
    embedding_size,
    pinned_versions,
    release_sizes,
)
from ctclip_client.doctor.engines import engine_checks
from ctclip_client.doctor.inspectors import Options, inspector
from ctclip_client.doctor.report import Check, failed, not_run, passed, warned
from ctclip_client.doctor.self_check import file_checks as self_checks
from ctclip_client.doctor.subject import Subject
from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_client.release.records import ReleaseRecord
from ctclip_client.release.repository import (
    CONFIG,
    ModelFolder,
    Repository,
    VersionFolder,
    loaded_versions,
    read_config,
    read_repository,
)

_EXPORT = "Make it with ctclip export --checkpoint F --text-model DIR --out DIR."
_EXPORT_AGAIN = "Export the repository again (ctclip export), or restore the file."
_MODEL_FILES = {"onnxruntime": "model.onnx", "python": "model.py"}
_VOCABULARY = "vocab.txt"


def inspect(subject: Subject, options: Options) -> Iterator[Check]:
    """Examine a repository.

    Raises:
        Unreadable: its folder cannot be listed.
    """
    repository = read_repository(subject.path, KNOWN)
    yield from _layout(repository)
    yield from _release_checks(repository)
    yield from _configs(repository)
    yield from _pins(repository)
    yield from _files(repository, options)
    yield from _vocabulary(repository)
    if CHECK.name in repository.models:
        yield from self_checks(repository.models[CHECK.name])
    yield from engine_checks(repository)
    try:
        deeper = inspector("repository")
    except InvalidInput as error:
        yield not_run("graph", error.cause, error.remedy)
        return
    yield from deeper.inspect(subject.path, options)


def _layout(repository: Repository) -> Iterator[Check]:
    if repository.strays:
        yield failed(
            "layout",
            f"no models: {', '.join(repository.strays)}. Triton takes every folder at the top of a "
            f"repository for a model, hidden ones too, and these have no {CONFIG}",
            "Move them elsewhere.", strays=list(repository.strays),
        )  # fmt: skip
    else:
        yield passed("layout", f"{len(repository.models)} folders, all of them models",
                     models=sorted(repository.models))  # fmt: skip
    for name in sorted(repository.models.keys() - KNOWN.keys()):
        yield warned("layout", "no model of the contract; it was not examined",
                     "Nothing to do if you put it there.", name)  # fmt: skip
    for name in REQUIRED:
        if name not in repository.models:
            yield failed("layout", "missing", _EXPORT, name)
    pair = list(OPTIONAL)
    there = [name for name in pair if name in repository.models]
    if there and len(there) < len(pair):
        missing = ", ".join(sorted({*pair} - {*there}))
        yield failed("layout", f"{there[0]} is there without {missing}", _EXPORT, "classfine")


def _release_checks(repository: Repository) -> Iterator[Check]:
    """One release in each version, of this contract; what it was made from."""
    by_version: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (name, number), record in sorted(repository.records().items()):
        by_version[number][record.release.name].append(name)
    if not by_version:
        yield failed("release", "no provenance.json can be read: nothing says where this comes "
                     "from", _EXPORT)  # fmt: skip
    for number, releases in sorted(by_version.items()):
        about = f"version {number}"
        if len(releases) == 1:
            (release, names), *_ = releases.items()
            yield passed("release", f"{release}, one for all {len(names)} models", about,
                         release=release, models=names)  # fmt: skip
            continue
        ranked = sorted(releases.items(), key=lambda item: -len(item[1]))
        told = "; ".join(
            f"{release} ({len(names)} models)"
            if index == 0 and len(names) > 3
            else f"{release} ({', '.join(names)})"
            for index, (release, names) in enumerate(ranked)
        )
        yield failed(
            "release", f"{len(releases)} releases are mixed: {told}",
            "Export again into an empty folder; scores of mixed releases mean nothing.", about,
            releases={release: list(names) for release, names in ranked},
        )  # fmt: skip
    main = repository.main_release()
    if main is None:
        yield not_run("contract", "No provenance.json can be read.")
        return
    said = main.contract_version
    if said == VERSION:
        yield passed("contract", f"version {VERSION}", version=VERSION)
    else:
        yield failed("contract", f"version {said}, this program knows version {VERSION}",
                     "Use the ctclip of the release that made it, or export again.",
                     version=said, expected=VERSION)  # fmt: skip
    yield _origin(main)


def _origin(release: ReleaseRecord) -> Check:
    checkpoint, shape = release.checkpoint, release.geometry.volume_shape
    detail = (
        f"{checkpoint.name}, {release.precision}, volume {'x'.join(map(str, shape))}, "
        f"{len(release.findings)} findings"
    )
    values = {
        "checkpoint": checkpoint.name, "checkpoint_sha256": checkpoint.sha256,
        "random_weights": checkpoint.random_weights, "precision": release.precision,
        "volume_shape": list(shape),
        "target_spacing_mm": list(release.geometry.target_spacing_mm),
        "findings": len(release.findings),
    }  # fmt: skip
    if checkpoint.random_weights:
        return warned("origin", f"RANDOM WEIGHTS: {detail}; its results mean nothing",
                      "For demonstrations only.", **values)  # fmt: skip
    return passed("origin", detail, **values)


def _sizes(repository: Repository) -> dict[str, int]:
    release = repository.main_release()
    configs = {n: c for n, m in repository.models.items() if (c := m.parsed()) is not None}
    return {
        **({} if release is None else release_sizes(release.content)),
        **embedding_size(configs),
    }


def _configs(repository: Repository) -> Iterator[Check]:
    sizes = _sizes(repository)
    for name, folder in sorted(repository.models.items()):
        if name not in KNOWN:
            continue
        for path in (folder.path / CONFIG, *folder.variants()):
            about = name if path.name == CONFIG else f"{name} ({path.stem})"
            try:
                config = (
                    folder.config
                    if path.name == CONFIG
                    else read_config(path, unknown_fields=False)
                )
            except CTClipError as error:
                yield failed("config", error.cause, error.remedy, about)
                continue
            default = path.name == CONFIG
            found = differences(config, KNOWN[name], sizes, free_batch=not default)
            found += _backend_difference(config, KNOWN[name], default=default)
            found += _precision_difference(config, path.stem)
            if found:
                yield failed("config", "; ".join(found), _EXPORT_AGAIN, about, differences=found)
            else:
                yield passed("config", "parsed by Triton's protobuf, as the contract says", about)


def _backend_difference(config: Any, part: Part, *, default: bool) -> list[str]:
    """Only the default config has a fixed backend; the others are there to change it."""
    if not default or isinstance(part, Ensemble) or config.backend == part.backend:
        return []
    return [f"backend is '{config.backend}', expected '{part.backend}'"]


def _precision_difference(config: Any, name: str) -> list[str]:
    """Bfloat16 is a choice to be made knowingly: by the name given to --config-name."""
    if "HINT_BF16" not in config.parameters or "bf16" in name:
        return []
    return [f"HINT_BF16 asks for bf16, but '{name}' does not say so"]


def _pins(repository: Repository) -> Iterator[Check]:
    """Every step of every ensemble names one version, and that version is there and is loaded."""
    for name, folder in sorted(repository.models.items()):
        config = folder.parsed()
        if config is None or not isinstance(KNOWN.get(name), Ensemble):
            continue
        if not folder.versions:
            yield failed("pins", "no version folder: Triton does not load it",
                         f"Make an empty folder {name}/1.", name)  # fmt: skip
            continue
        pins = pinned_versions(config)
        problems = [
            problem
            for model, version in pins.items()
            if (problem := _pin_problem(repository, model, version))
        ]
        if len(set(pins.values())) > 1:
            problems.append(f"steps of different releases: {pins}")
        if problems:
            yield failed("pins", "; ".join(problems), _EXPORT_AGAIN, name, pins=pins)
        else:
            version = next(iter(pins.values()), 0)
            yield passed("pins", f"every step pinned to version {version}", name, pins=pins)


def _pin_problem(repository: Repository, model: str, version: int) -> str:
    if version < 1:
        return f"{model} is not pinned to a version"
    folder = repository.models.get(model)
    if folder is None or version not in folder.versions:
        return f"{model} has no version {version}"
    config = folder.parsed()
    if config is not None and version not in loaded_versions(config, sorted(folder.versions)):
        return f"{model} version {version} is not loaded by its version_policy"
    return ""


def _files(repository: Repository, options: Options) -> Iterator[Check]:
    """Each version's model file is there and is the one that was exported."""
    jobs = [
        (KNOWN[name], version)
        for name, folder in sorted(repository.models.items())
        if isinstance(KNOWN.get(name), Model)
        for version in _or_none(folder)
    ]
    total = sum(_size(version, part) for part, version in jobs if version is not None)
    with options.stages.stage("Hash the files", max(total, 1)) as advance:
        for part, version in jobs:
            if version is None:
                yield failed("file", "no version folder", _EXPORT, part.name)
            else:
                yield _file(part, version, advance)


def _or_none(folder: ModelFolder) -> list[VersionFolder] | list[None]:
    return [version for _, version in sorted(folder.versions.items())] or [None]


def _size(version: VersionFolder, part: Part) -> int:
    try:
        return (version.path / _hashed_file(part)).stat().st_size
    except OSError:
        return 0


def _hashed_file(part: Part) -> str:
    if part.name == TOKENIZER.name:
        return _VOCABULARY
    return _MODEL_FILES[part.backend] if isinstance(part, Model) else ""


def _file(part: Part, version: VersionFolder, advance: Any) -> Check:
    about = f"{part.name}/{version.number}"
    backend = part.backend if isinstance(part, Model) else ""
    missing = [
        name
        for name in dict.fromkeys((_MODEL_FILES[backend], _hashed_file(part)))
        if not version.has(name)
    ]
    if missing:
        return failed("file", f"{', '.join(missing)}: missing", _EXPORT, about, missing=missing)
    try:
        record = version.record
        expected_name = _hashed_file(part)
        if record.file != expected_name:
            return failed(
                "file", f"provenance.json describes {record.file}, expected {expected_name}",
                _EXPORT_AGAIN, about,
            )  # fmt: skip
        got = version.sha256(record.file, advance)
    except CTClipError as error:
        return failed("file", error.cause, error.remedy, about)
    values = {"file": record.file, "sha256": got, "expected_sha256": record.file_sha256}
    if got != record.file_sha256:
        return failed(
            "file",
            f"{record.file} has SHA-256 {got[:16]}…, provenance.json says "
            f"{record.file_sha256[:16]}…: it is not the file that was exported and checked",
            _EXPORT_AGAIN, about, **values,
        )  # fmt: skip
    return passed("file", "there, SHA-256 as recorded", about, **values)


def _vocabulary(repository: Repository) -> Iterator[Check]:
    """All models of a release were made with the vocabulary that the tokenizer has."""
    records = repository.records()
    folder = repository.models.get(TOKENIZER.name)
    for number, version in sorted(folder.versions.items()) if folder else ():
        about = f"version {number}"
        if not version.has(_VOCABULARY):
            yield not_run("vocabulary", f"{_VOCABULARY} is missing.", about=about)
            continue
        try:
            got = version.sha256(_VOCABULARY)
        except CTClipError as error:
            yield failed("vocabulary", error.cause, error.remedy, about)
            continue
        wanted = {
            name: record.vocabulary_sha256
            for (name, other), record in records.items()
            if other == number
        }
        others = sorted(name for name, digest in wanted.items() if digest != got)
        if not wanted:
            yield not_run("vocabulary", "No provenance.json can be read.", about=about)
        elif others:
            most, _ = Counter(wanted.values()).most_common(1)[0]
            yield failed(
                "vocabulary",
                f"vocab.txt has SHA-256 {got[:16]}…, {len(others)} models were made with "
                f"{most[:16]}…: every text would get other tokens",
                _EXPORT_AGAIN, about, sha256=got, expected_sha256=most,
            )  # fmt: skip
        else:
            yield passed("vocabulary", "the one that all models were made with", about, sha256=got)
