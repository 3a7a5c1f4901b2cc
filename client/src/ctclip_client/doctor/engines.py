"""TensorRT plans: each must say which ONNX file it was built from, and that file must be there.

`ctclip build-engines` writes `engine.json` beside every `model.plan`. Triton itself asks for
nothing of the kind: a plan of last month's checkpoint would be served without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ctclip_client.doctor.folder import Repository, VersionFolder, read_json
from ctclip_client.doctor.report import Check, failed, passed, warned
from ctclip_client.errors import CTClipError

PLAN = "model.plan"
RECORD = "engine.json"
RECORD_KEYS = (
    "onnx_sha256", "tensorrt_version", "gpu_name", "compute_capability", "profile", "precision",
)  # fmt: skip

_ONNX = "model.onnx"
_BUILD = "Build it again: ctclip build-engines --repository DIR --target tensorrt."


def engine_checks(repository: Repository) -> Iterator[Check]:
    """One check for each plan; one that says "none" where there is no plan."""
    versions = [
        (f"{model.name}/{number}", version)
        for model in repository.models.values()
        for number, version in sorted(model.versions.items())
    ]
    found = [(about, version) for about, version in versions if version.has(PLAN)]
    orphans = [about for about, v in versions if v.has(RECORD) and not v.has(PLAN)]
    for about in orphans:
        yield warned("engine", f"{RECORD} without {PLAN}", _BUILD, about)
    if not found and not orphans:
        wanting = sorted(
            {path.stem for model in repository.models.values() for path in model.variants()}
            & {"tensorrt"}
        )
        needs = "; the config variant 'tensorrt' needs them" if wanting else ""
        yield passed("engine", f"none{needs}", count=0)
    for about, version in found:
        yield _engine(about, version)


def _engine(about: str, version: VersionFolder) -> Check:
    try:
        record = read_json(version.path / RECORD)
    except CTClipError as error:
        return failed(
            "engine", f"{PLAN} without a record of its origin: {error.cause}", _BUILD, about
        )
    missing = [key for key in RECORD_KEYS if key not in record]
    if missing:
        return failed("engine", f"{RECORD} lacks {', '.join(missing)}", _BUILD, about)
    values = {key: record[key] for key in RECORD_KEYS}
    problem = _origin_problem(record["onnx_sha256"], version) or _plan_problem(record, version)
    if problem:
        return failed("engine", problem, _BUILD, about, **values)
    detail = (
        f"{record['precision']}, TensorRT {record['tensorrt_version']}, for "
        f"{record['gpu_name'] or 'any GPU'} of compute capability {record['compute_capability']}"
    )
    precision = _released_precision(version)
    if precision not in ("", record["precision"]):
        return warned(
            "engine",
            f"{detail}; the release says {precision}",
            "Run ctclip parity on the engine: the release's own results do not cover it.",
            about,
            **values,
        )
    return passed("engine", detail, about, **values)


def _origin_problem(recorded: object, version: VersionFolder) -> str:
    if not version.has(_ONNX):
        return f"{_ONNX}, which it was built from, is missing"
    try:
        got = version.sha256(_ONNX)
    except CTClipError as error:
        return error.cause
    if recorded == got:
        return ""
    return (
        f"built from another ONNX file ({str(recorded)[:16]}…, here lies {got[:16]}…): it would "
        "answer for another model"
    )


def _plan_problem(record: Mapping[str, Any], version: VersionFolder) -> str:
    """Older records do not hold the plan's own hash."""
    expected = record.get("plan_sha256")
    if expected is None:
        return ""
    try:
        got = version.sha256(PLAN)
    except CTClipError as error:
        return error.cause
    if got == expected:
        return ""
    return f"{PLAN} has SHA-256 {got[:16]}…, {RECORD} says {str(expected)[:16]}…: it is damaged"


def _released_precision(version: VersionFolder) -> str:
    try:
        return str(version.record.release["precision"])
    except CTClipError:
        return ""
