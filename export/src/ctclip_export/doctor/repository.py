"""The insides of a repository: graphs, Python models, and the name of its release."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, ValueInfoProto

from ctclip_client.contract import PYTHON_MODELS, Model
from ctclip_client.doctor.configs import KNOWN
from ctclip_client.doctor.engines import released_precision
from ctclip_client.doctor.inspectors import DoctorOptions
from ctclip_client.doctor.report import Check, failed, not_run, passed, warned
from ctclip_client.release.onnx_file import Versions
from ctclip_client.release.records import digests_of_release
from ctclip_client.release.repository import Repository, read_repository
from ctclip_export.graphs.versions import IR_VERSION, OPSET
from ctclip_export.repository import python_models
from ctclip_export.repository.provenance import release_name

_MODEL = "model.onnx"
_FREE = -1
_TRITON_NAMES = {"FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16", "BFLOAT16": "BF16"}
"""Of the types that ONNX calls otherwise."""
_EXPORT_AGAIN = "Export the repository again (ctclip export)."


def inspect(path: Path, options: DoctorOptions) -> Iterator[Check]:
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
            # An older export has none of the further files.
            for file in (_MODEL, *(file for file in part.further_files if version.has(file))):
                where = about if file == _MODEL else f"{about}/{file}"
                try:
                    model = ModelProto.FromString((version.path / file).read_bytes())
                    check = _graph(where, model, folder.parsed(), released_precision(version))
                except (DecodeError, ValueError, OSError) as error:
                    check = failed("graph", f"{file}: {error}", _EXPORT_AGAIN, where)
                yield check


def _graph(about: str, model: ModelProto, config: Any | None, precision: str) -> Check:
    versions = Versions(
        model.ir_version, {entry.domain: entry.version for entry in model.opset_import}
    )
    if not versions.ir_version or not versions.opsets or not model.HasField("graph"):
        return failed("graph", "it has no IR version, operator set or graph",
                      _EXPORT_AGAIN, about)  # fmt: skip
    values: dict[str, Any] = {
        "ir_version": versions.ir_version, "opset": versions.opset,
        "domains": sorted(domain for domain in versions.opsets if domain),
    }  # fmt: skip
    told = f"IR {versions.ir_version}, opset {versions.opset}"
    problems = []
    if unknown := versions.unknown_to_production():
        problems.append(unknown)
    external = sum(w.data_location == TensorProto.EXTERNAL for w in model.graph.initializer)
    if external:
        problems.append(f"{external} weights lie in another file; the contract wants one file")
    if config is not None:
        problems += _config_problems(model, config)
    if problems:
        return failed("graph", "; ".join(problems), _EXPORT_AGAIN, about, problems=problems,
                      **values)  # fmt: skip
    if precision == "fp32" and (versions.ir_version > IR_VERSION or versions.opset > OPSET):
        return warned(
            "graph", f"{told}; the contract says {IR_VERSION} and {OPSET}, fp32 needs no more",
            _EXPORT_AGAIN, about, **values,
        )  # fmt: skip
    if config is None:
        return not_run("graph", "The config, which it should match, cannot be read.", about=about)
    return passed(
        "graph", f"{told}, one file; inputs and outputs match the config", about, **values,
    )  # fmt: skip


def _config_problems(model: ModelProto, config: Any) -> list[str]:
    """By the rules of Triton's C++ backend, which are not the same for inputs and outputs."""
    weights = {weight.name for weight in model.graph.initializer}
    inputs = {info.name: info for info in model.graph.input if info.name not in weights}
    outputs = {info.name: info for info in model.graph.output}
    stated = sorted(entry.name for entry in config.input)
    found = []
    if stated != sorted(inputs):
        found.append(f"inputs are {sorted(inputs)}, the config says {stated}")
    missing = sorted({entry.name for entry in config.output} - outputs.keys())
    if missing:
        found.append(f"outputs are {sorted(outputs)}, the config also says {missing}")
    batch = [_FREE] if config.max_batch_size > 0 else []
    for kind, entries, tensors in (
        ("input", config.input, inputs),
        ("output", config.output, outputs),
    ):
        for entry in entries:
            if entry.name in tensors:
                dims = [*batch, *entry.dims]
                found += _tensor_problem(kind, entry, tensors[entry.name], dims)
    return found


def _tensor_problem(kind: str, entry: Any, info: ValueInfoProto, stated: list[int]) -> list[str]:
    from tritonclient.grpc import model_config_pb2

    tensor = info.type.tensor_type
    wanted = model_config_pb2.DataType.Name(entry.data_type).removeprefix("TYPE_")
    name = TensorProto.DataType.Name(tensor.elem_type)
    dtype = _TRITON_NAMES.get(name, name)
    if dtype != wanted:
        return [f"{kind} {entry.name} is {dtype}, the config says {wanted}"]
    dims = [d.dim_value if d.HasField("dim_value") else _FREE for d in tensor.shape.dim]
    if not tensor.HasField("shape") or not _fits(dims, stated, exact=kind == "output"):
        shown = str(dims) if tensor.HasField("shape") else "of unknown shape"
        return [f"{kind} {entry.name} is {shown}, the config says {stated} (-1: any size)"]
    return []


def _fits(dims: Sequence[int], stated: Sequence[int], *, exact: bool) -> bool:
    return len(dims) == len(stated) and all(
        own == theirs or (own == _FREE and not exact)
        for own, theirs in zip(dims, stated, strict=True)
    )


def _python_models(repository: Repository) -> Iterator[Check]:
    """Their sources run inside the server; only one file of each is in provenance.json."""
    for model in PYTHON_MODELS:
        folder = repository.models.get(model.name)
        wanted = {path.name: path.read_bytes() for path in python_models.sources(model.name)}
        for number, version in sorted(folder.versions.items()) if folder else ():
            about = f"{model.name}/{number}"
            try:
                files = [path for path in version.path.glob("*.py") if path.is_file()]
                found = {path.name: path.read_bytes() for path in files}
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


def _release_names(repository: Repository) -> Iterator[Check]:
    """A release's name is a digest of its record and files, so it shows an edited record."""
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
        files = digests_of_release({name: record.files for name, record in here.items()})
        made = set()
        for record in here.values():
            release = {k: value for k, value in record.release.content.items() if k != "release"}
            made.add(release_name(release, record.vocabulary_sha256, files))
        said = record.release.name
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
