"""The insides of a repository: graphs, Python models, and the name of its release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctclip_client.contract import PYTHON_MODELS, Model
from ctclip_client.doctor.configs import KNOWN
from ctclip_client.doctor.inspectors import Options
from ctclip_client.doctor.report import Check, failed, not_run, passed, warned
from ctclip_client.errors import CTClipError
from ctclip_client.release.records import ModelRecord
from ctclip_client.release.repository import Repository, VersionFolder, read_repository
from ctclip_export.doctor.outline import FREE, GraphTensor, Outline, read_outline
from ctclip_export.graphs.versions import IR_VERSION, OPSET
from ctclip_export.repository import python_models
from ctclip_export.repository.provenance import release_name

PRODUCTION_IR_VERSION = 13
PRODUCTION_OPSET = 26
"""What ONNX Runtime 1.28 of Triton 26.08 knows (ONNX 1.21)."""

_MODEL = "model.onnx"
_STANDARD_DOMAINS = ("", "ai.onnx")
_EXPORT_AGAIN = "Export the repository again (ctclip export)."


def inspect(path: Path, options: Options) -> Iterator[Check]:
    """Examine what the client's examination cannot: see `ctclip_client.doctor.repository`."""
    repository = read_repository(path, KNOWN)
    with options.stages.stage("Read the graphs"):
        yield from _graphs(repository)
    yield from _python_models(repository)
    yield from _release_names(repository)


def _graphs(repository: Repository) -> Iterator[Check]:
    for name, folder in sorted(repository.models.items()):
        part = KNOWN.get(name)
        if not isinstance(part, Model) or part.backend != "onnxruntime":
            continue
        for number, version in sorted(folder.versions.items()):
            about = f"{name}/{number}"
            if not version.has(_MODEL):
                yield not_run("graph", f"{_MODEL} is missing.", about=about)
                continue
            try:
                outline = read_outline(version.path / _MODEL)
            except (ValueError, OSError) as error:
                yield failed("graph", f"{_MODEL}: {error}", _EXPORT_AGAIN, about)
                continue
            yield _graph(about, outline, folder.parsed(), _precision(version))


def _graph(about: str, outline: Outline, config: Any | None, precision: str) -> Check:
    opset = max((outline.opsets.get(domain, 0) for domain in _STANDARD_DOMAINS), default=0)
    values: dict[str, Any] = {
        "ir_version": outline.ir_version, "opset": opset,
        "domains": sorted(domain for domain in outline.opsets if domain),
    }  # fmt: skip
    problems = []
    if outline.ir_version > PRODUCTION_IR_VERSION or opset > PRODUCTION_OPSET:
        problems.append(
            f"IR {outline.ir_version}, opset {opset}: production's ONNX Runtime 1.28 knows up to "
            f"IR {PRODUCTION_IR_VERSION}, opset {PRODUCTION_OPSET}"
        )
    if outline.external:
        problems.append(
            f"{len(outline.external)} weights lie in another file; the contract wants one file"
        )
    if config is not None:
        problems += _config_problems(outline, config)
    if problems:
        return failed("graph", "; ".join(problems), _EXPORT_AGAIN, about, problems=problems,
                      **values)  # fmt: skip
    if precision == "fp32" and (outline.ir_version > IR_VERSION or opset > OPSET):
        return warned(
            "graph", f"IR {outline.ir_version}, opset {opset}; the contract says {IR_VERSION} and "
            f"{OPSET}, and float32 needs no more", _EXPORT_AGAIN, about, **values,
        )  # fmt: skip
    if config is None:
        return not_run("graph", "The config, which it should match, cannot be read.", about=about)
    return passed(
        "graph", f"IR {outline.ir_version}, opset {opset}, one file; inputs and outputs match the "
        "config", about, **values,
    )  # fmt: skip


def _config_problems(outline: Outline, config: Any) -> list[str]:
    """By the rules of Triton's C++ backend, which are not the same for inputs and outputs."""
    batched = config.max_batch_size > 0
    stated = sorted(entry.name for entry in config.input)
    found = []
    if stated != sorted(outline.inputs):
        found.append(f"inputs are {sorted(outline.inputs)}, the config says {stated}")
    missing = sorted({entry.name for entry in config.output} - outline.outputs.keys())
    if missing:
        found.append(f"outputs are {sorted(outline.outputs)}, the config also says {missing}")
    for kind, entries, tensors, exact in (
        ("input", config.input, outline.inputs, False),
        ("output", config.output, outline.outputs, True),
    ):
        for entry in entries:
            if entry.name in tensors:
                found += _tensor_problem(kind, entry, tensors[entry.name], batched, exact=exact)
    return found


def _tensor_problem(
    kind: str, entry: Any, tensor: GraphTensor, batched: bool, *, exact: bool
) -> list[str]:
    from tritonclient.grpc import model_config_pb2

    dtype = model_config_pb2.DataType.Name(entry.data_type).removeprefix("TYPE_")
    if dtype != tensor.dtype:
        return [f"{kind} {entry.name} is {tensor.dtype}, the config says {dtype}"]
    dims = ([FREE] if batched else []) + list(entry.dims)
    if not _fits(tensor.dims, dims, exact=exact):
        shown = "of unknown shape" if tensor.dims is None else str(list(tensor.dims))
        return [f"{kind} {entry.name} is {shown}, the config says {dims} (-1: any size)"]
    return []


def _fits(dims: Sequence[int] | None, stated: Sequence[int], *, exact: bool) -> bool:
    if dims is None or len(dims) != len(stated):
        return False
    return all(
        own == theirs or (own == FREE and not exact)
        for own, theirs in zip(dims, stated, strict=True)
    )


def _precision(version: VersionFolder) -> str:
    try:
        return version.record.release.precision
    except CTClipError:
        return ""


def _python_models(repository: Repository) -> Iterator[Check]:
    """Their sources run inside the server; only one file of each is in provenance.json."""
    for model in PYTHON_MODELS:
        folder = repository.models.get(model.name)
        wanted = {path.name: path.read_bytes() for path in python_models.sources(model.name)}
        for number, version in sorted(folder.versions.items()) if folder else ():
            about = f"{model.name}/{number}"
            try:
                found = _read_all(version.path)
            except OSError as error:
                yield failed("python", f"{error.strerror or error}", _EXPORT_AGAIN, about)
                continue
            missing = sorted(wanted.keys() - found.keys())
            other = sorted(name for name in wanted if name in found and wanted[name] != found[name])
            extra = sorted(found.keys() - wanted.keys())
            if missing:
                yield failed("python", f"{', '.join(missing)}: missing", _EXPORT_AGAIN, about)
            elif other or extra:
                yield warned(
                    "python", f"not this ctclip-export's: {', '.join(other + extra)}",
                    "Fine if another version exported it; otherwise someone changed what runs "
                    "inside the server.", about, changed=other, unknown=extra,
                )  # fmt: skip
            else:
                yield passed("python", "the sources that this ctclip-export ships", about)


def _read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.py") if path.is_file()}


def _release_names(repository: Repository) -> Iterator[Check]:
    """A release's name is a digest of its record and files: an edited record betrays itself."""
    records = repository.records()
    for number in sorted({number for _, number in records}):
        about = f"version {number}"
        here = {name: record for (name, other), record in records.items() if other == number}
        if len({record.release.name for record in here.values()}) > 1:
            yield not_run("record", "Several releases are mixed.", about=about)
            continue
        unread = sorted(
            name
            for name, folder in repository.models.items()
            if isinstance(KNOWN.get(name), Model) and number in folder.versions and name not in here
        )
        if unread:  # the digest is over the files of them all
            yield not_run("record", f"No record of {', '.join(unread)} can be read.", about=about)
            continue
        files = {name: record.file_sha256 for name, record in here.items()}
        said = next(iter(here.values())).release.name
        made = {_name_of(record, files) for record in here.values()}
        if made == {said}:
            yield passed("record", "its name is the digest of what it says and of its files",
                         about, release=said)  # fmt: skip
        else:
            yield failed(
                "record",
                f"named {said}, but its contents have the digest {', '.join(sorted(made))}: a "
                "provenance.json was edited, or a model of that export is gone",
                _EXPORT_AGAIN, about, release=said, digests=sorted(made),
            )  # fmt: skip


def _name_of(record: ModelRecord, files: Mapping[str, str]) -> str:
    release = {key: value for key, value in record.release.content.items() if key != "release"}
    return release_name(release, record.vocabulary_sha256, files)
