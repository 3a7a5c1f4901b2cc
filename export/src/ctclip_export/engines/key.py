"""Whether an engine is the one that was asked for. One that differs is never used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctclip_client.errors import Unreadable
from ctclip_client.release.digest import sha256
from ctclip_client.release.engines import (
    ENGINE_RECORD,
    REBUILD,
    EngineRecord,
    Shapes,
    read_engine_record,
)
from ctclip_export.engines.target import EngineError


@dataclass(frozen=True)
class Key:
    """What an engine has to agree with. tensorrt_version: of the library that builds or runs it.

    compute_capability: such as "8.0". precision: of the graph's trunk.
    """

    onnx_sha256: str
    tensorrt_version: str
    compute_capability: str
    profile: Shapes
    precision: str


def difference(folder: Path, plan: str, key: Key) -> str:
    """Why the engine in `folder` is not the one that `key` describes, in words; "" if it is.

    plan: its file name.
    """
    path = folder / plan
    if not path.is_file():
        return f"there is no {plan}"
    try:
        record = read_engine_record(folder)
    except Unreadable as error:
        return error.cause.rstrip(".")
    size = path.stat().st_size
    checks = (
        ("built from another ONNX file", _short(record.onnx_sha256), _short(key.onnx_sha256)),
        ("built by another TensorRT", record.tensorrt_version, key.tensorrt_version),
        (
            "built for another GPU architecture", record.compute_capability,
            key.compute_capability,
        ),
        ("of another precision", record.precision, key.precision),
        ("built for other shapes", record.profile, key.profile),
    )  # fmt: skip
    for what, got, expected in checks:
        if got != expected:
            return f"it was {what}: {got}, expected {expected}"
    if size < record.plan_bytes:
        return f"{plan} is truncated: {size:,} of {record.plan_bytes:,} bytes"
    if sha256(path) != record.plan_sha256:
        return f"{plan} is not the file that {ENGINE_RECORD} describes: its SHA-256 differs"
    return ""


def require(folder: Path, plan: str, key: Key) -> EngineRecord:
    """The record of an engine that agrees with `key`. Raises: EngineError saying what differs."""
    reason = difference(folder, plan, key)
    if reason:
        raise EngineError(f"engine: {folder / plan} is refused: {reason}.", REBUILD)
    return read_engine_record(folder)


def _short(digest: object) -> str:
    return f"{str(digest)[:16]}…"
