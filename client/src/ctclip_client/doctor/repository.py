"""A model repository: everything that can be told without opening a graph.

What is inside the ONNX files is looked at by `ctclip-export`, see `inspectors`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ctclip_client.contract import CHECK, TOKENIZER, VERSION, Ensemble, Model
from ctclip_client.doctor.configs import (
    KNOWN,
    OPTIONAL,
    differences,
    embedding_size,
    pinned_versions,
    release_sizes,
)
from ctclip_client.doctor.engines import engine_checks
from ctclip_client.doctor.inspectors import DoctorOptions, inspector
from ctclip_client.doctor.report import Check, failed, judged, not_run, of_weights, passed, warned
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
from ctclip_client.release.served_graphs import served_graphs_problem

_EXPORT = "Make it with ctclip export --checkpoint F --text-model DIR --out DIR."
_EXPORT_AGAIN = "Export the repository again (ctclip export), or restore the file."
_MODEL_FILES = {"onnxruntime": "model.onnx", "python": "model.py"}
_VOCABULARY = "vocab.txt"


def inspect(subject: Subject, options: DoctorOptions) -> Iterator[Check]:
    """Examine a repository.

    Raises:
        Unreadable: its folder cannot be listed.
    """
    repository = read_repository(subject.path, KNOWN)
    yield from _layout(repository)
    yield from _releases(repository)
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
    missing = [name for name in KNOWN if name not in repository.models]
    yield from (failed("layout", "missing", _EXPORT, n) for n in missing if n not in OPTIONAL)
    missing = [name for name in OPTIONAL if name in missing]
    if missing and len(missing) < len(OPTIONAL):
        yield failed("layout", f"only a part is there, without {', '.join(missing)}", _EXPORT,
                     "classfine")  # fmt: skip


def _releases(repository: Repository) -> Iterator[Check]:
    """One release in each version, of this contract; what it was made from."""
    by_version: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (name, number), record in sorted(repository.records().items()):
        by_version[number][record.release.name].append(name)
    main = repository.main_release()
    if main is None:
        yield failed("release", "no provenance.json can be read: nothing says where this comes "
                     "from", _EXPORT)  # fmt: skip
        yield not_run("contract", "No provenance.json can be read.")
        return
    for number, releases in sorted(by_version.items()):
        yield _one_release(f"version {number}", releases)
    said = main.contract_version
    if said == VERSION:
        yield passed("contract", f"version {VERSION}", version=VERSION)
    else:
        yield failed("contract", f"version {said}, this program knows version {VERSION}",
                     "Use the ctclip of the release that made it, or export again.",
                     version=said, expected=VERSION)  # fmt: skip
    yield _origin(main)


def _one_release(about: str, releases: Mapping[str, list[str]]) -> Check:
    """releases: name -> its models."""
    (main, models), *others = sorted(releases.items(), key=lambda item: -len(item[1]))
    if not others:
        return passed("release", f"{main}, one for all {len(models)} models", about,
                      release=main, models=models)  # fmt: skip
    told = f"{main} ({len(models)} models)" if len(models) > 3 else f"{main} ({', '.join(models)})"
    told += "".join(f"; {release} ({', '.join(names)})" for release, names in others)
    return failed(
        "release", f"{len(releases)} releases are mixed: {told}",
        "Export again into an empty folder; scores of mixed releases mean nothing.", about,
        releases=dict(releases),
    )  # fmt: skip


def _origin(release: ReleaseRecord) -> Check:
    checkpoint, shape = release.checkpoint, release.geometry.volume_shape
    detail = (
        f"{checkpoint.name}, {release.precision}, volume {'x'.join(map(str, shape))}, "
        f"{len(release.findings)} findings"
    )
    if release.classes:
        detail += f", a trained head of {len(release.classes)} classes"
    values = {
        "checkpoint": checkpoint.name, "checkpoint_sha256": checkpoint.sha256,
        "precision": release.precision,
        "volume_shape": list(shape),
        "target_spacing_mm": list(release.geometry.target_spacing_mm),
        "findings": len(release.findings), "classes": len(release.classes),
    }  # fmt: skip
    return of_weights("origin", detail, values, random_weights=checkpoint.random_weights)


def _configs(repository: Repository) -> Iterator[Check]:
    release = repository.main_release()
    configs = {n: c for n, m in repository.models.items() if (c := m.parsed()) is not None}
    known = {} if release is None else release_sizes(release.content)
    sizes = {**known, **embedding_size(configs)}
    for name, folder in sorted(repository.models.items()):
        if name not in KNOWN:
            continue
        for path in (folder.path / CONFIG, *folder.variants()):
            default = path.name == CONFIG
            about = name if default else f"{name} ({path.stem})"
            try:
                config = folder.config if default else read_config(path, unknown_fields=False)
            except CTClipError as error:
                yield failed("config", error.cause, error.remedy, about)
                continue
            found = differences(config, KNOWN[name], sizes, variant=not default)
            # Bfloat16 is a choice to be made knowingly: by the name given to --config-name.
            if "HINT_BF16" in config.parameters and "bf16" not in path.stem:
                found.append(f"HINT_BF16 asks for bf16, but '{path.stem}' does not say so")
            fine = "parsed by Triton's protobuf, as the contract says"
            yield judged("config", found, fine, _EXPORT_AGAIN, about, differences=found)


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
        problems = [p for each in pins.items() if (p := _pin_problem(repository, *each))]
        if len(set(pins.values())) > 1:
            problems.append(f"steps of different releases: {pins}")
        fine = f"every step pinned to version {next(iter(pins.values()), 0)}"
        yield judged("pins", problems, fine, _EXPORT_AGAIN, name, pins=pins)


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


def _files(repository: Repository, options: DoctorOptions) -> Iterator[Check]:
    """Each version's model file is there and is the one that was exported."""
    folders = [
        (part, folder)
        for name, folder in sorted(repository.models.items())
        if isinstance(part := KNOWN.get(name), Model)
    ]
    files = (
        v.path / name
        for part, f in folders
        for v in f.versions.values()
        for name in (_recorded(part), *part.further_files)
    )
    total = sum(file.stat().st_size for file in files if file.is_file())
    with options.stages.stage("Hash the files", max(total, 1)) as advance:
        for part, folder in folders:
            if not folder.versions:
                yield failed("file", "no version folder", _EXPORT, part.name)
            configs = _readable_configs(folder)
            for _, version in sorted(folder.versions.items()):
                yield _file(part, version, configs, advance)


def _recorded(part: Model) -> str:
    """The file that a model's provenance.json describes."""
    return _VOCABULARY if part is TOKENIZER else _MODEL_FILES[part.backend]


def _readable_configs(folder: ModelFolder) -> list[Path]:
    """A model's configs; the check "config" tells of those that cannot be read."""
    found = []
    for path in (folder.path / CONFIG, *folder.variants()):
        with suppress(CTClipError):
            read_config(path)
            found.append(path)
    return found


def _file(
    part: Model,
    version: VersionFolder,
    configs: Sequence[Path],
    advance: Callable[[int], None],
) -> Check:
    about = f"{part.name}/{version.number}"
    needed = dict.fromkeys((_MODEL_FILES[part.backend], _recorded(part)))
    missing = [name for name in needed if not version.has(name)]
    if missing:
        return failed("file", f"{', '.join(missing)}: missing", _EXPORT, about, missing=missing)
    try:
        record = version.record
        if record.file != _recorded(part):
            return failed(
                "file", f"provenance.json describes {record.file}, expected {_recorded(part)}",
                _EXPORT_AGAIN, about,
            )  # fmt: skip
        digests = {name: version.sha256(name, advance) for name in record.files}
        problem = served_graphs_problem(version.path, record, configs)
    except CTClipError as error:
        return failed("file", error.cause, error.remedy, about)
    values = {"file": record.file, "sha256": digests[record.file],
              "expected_sha256": record.file_sha256, "files": digests}  # fmt: skip
    for name, expected in record.files.items():
        if (got := digests[name]) != expected:
            return failed(
                "file",
                f"{name} has SHA-256 {got[:16]}…, provenance.json says {expected[:16]}…: it is "
                "not the file that was exported and checked", _EXPORT_AGAIN, about, **values,
            )  # fmt: skip
    if problem:
        return failed("file", problem, _EXPORT_AGAIN, about, **values)
    return passed("file", "there, SHA-256 as recorded", about, **values)


def _vocabulary(repository: Repository) -> Iterator[Check]:
    """All models of a release were made with the vocabulary that the tokenizer has."""
    folder = repository.models.get(TOKENIZER.name)
    records = repository.records()
    for number, version in sorted(folder.versions.items()) if folder else ():
        stated = [made.vocabulary_sha256 for (_, at), made in records.items() if at == number]
        yield _vocabulary_of(f"version {number}", version, stated)


def _vocabulary_of(about: str, version: VersionFolder, stated: Sequence[str]) -> Check:
    """stated: SHA-256 by the record of each model of this version."""
    if not version.has(_VOCABULARY):
        return not_run("vocabulary", f"{_VOCABULARY} is missing.", about=about)
    if not stated:
        return not_run("vocabulary", "No provenance.json can be read.", about=about)
    try:
        got = version.sha256(_VOCABULARY)
    except CTClipError as error:
        return failed("vocabulary", error.cause, error.remedy, about)
    others = sum(digest != got for digest in stated)
    if not others:
        return passed("vocabulary", "the one that all models were made with", about, sha256=got)
    ((most, _),) = Counter(stated).most_common(1)
    return failed(
        "vocabulary", f"vocab.txt has SHA-256 {got[:16]}…, {others} models were made with "
        f"{most[:16]}…: every text would get other tokens",
        _EXPORT_AGAIN, about, sha256=got, expected_sha256=most,
    )  # fmt: skip
