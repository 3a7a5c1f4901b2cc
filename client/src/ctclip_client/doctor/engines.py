"""TensorRT plans: each must say which ONNX file it was built from, and that file must be there."""

from __future__ import annotations

from collections.abc import Iterator

from ctclip_client.doctor.report import Check, failed, passed, warned
from ctclip_client.errors import CTClipError
from ctclip_client.release.engines import ENGINE_RECORD, REBUILD, EngineRecord, read_engine_record
from ctclip_client.release.repository import PLAN, Repository, VersionFolder

_ONNX = "model.onnx"
_TOLD = ("onnx_sha256", "tensorrt_version", "gpu_name", "compute_capability", "profile",
         "precision")  # fmt: skip


def engine_checks(repository: Repository) -> Iterator[Check]:
    """One check for each plan; one that says "none" where there is no plan."""
    found = False
    for name, model in repository.models.items():
        for number, version in sorted(model.versions.items()):
            about = f"{name}/{number}"
            if version.has(PLAN):
                yield _engine(about, version)
            elif version.has(ENGINE_RECORD):
                yield warned("engine", f"{ENGINE_RECORD} without {PLAN}", REBUILD, about)
            else:
                continue
            found = True
    if not found:
        variants = {path.stem for model in repository.models.values() for path in model.variants()}
        needs = "; the config variant 'tensorrt' needs them" if "tensorrt" in variants else ""
        yield passed("engine", f"none{needs}", count=0)


def _engine(about: str, version: VersionFolder) -> Check:
    try:
        record = read_engine_record(version.path)
        problem = _problem(record, version)
    except CTClipError as error:
        return failed("engine", error.cause, error.remedy, about)
    values = {name: getattr(record, name) for name in _TOLD}
    if problem:
        return failed("engine", problem, REBUILD, about, **values)
    detail = (
        f"{record.precision}, TensorRT {record.tensorrt_version}, for "
        f"{record.gpu_name or 'any GPU'} of compute capability {record.compute_capability}"
    )
    released = released_precision(version)
    if released not in ("", record.precision):
        return warned(
            "engine", f"{detail}; the release says {released}",
            "Run ctclip parity on the engine: the release's own results do not cover it.",
            about, **values,
        )  # fmt: skip
    return passed("engine", detail, about, **values)


def _problem(record: EngineRecord, version: VersionFolder) -> str:
    if not version.has(_ONNX):
        return f"{_ONNX}, which it was built from, is missing"
    got = version.sha256(_ONNX)
    if record.onnx_sha256 != got:
        return (
            f"built from another ONNX file ({record.onnx_sha256[:16]}…, here lies {got[:16]}…): it "
            "would answer for another model"
        )
    got = version.sha256(PLAN)
    if record.plan_sha256 != got:
        return (
            f"{PLAN} has SHA-256 {got[:16]}…, {ENGINE_RECORD} says {record.plan_sha256[:16]}…: it "
            "is damaged"
        )
    return ""


def released_precision(version: VersionFolder) -> str:
    """What the record beside a model's file says; "" where there is none that can be read."""
    try:
        return version.record.release.precision
    except CTClipError:
        return ""
