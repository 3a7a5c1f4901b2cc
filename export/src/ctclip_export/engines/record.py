"""`engine.json`: what an engine was built from and for. An engine that differs is never used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ctclip_export.engines.profile import Shapes
from ctclip_export.engines.target import EngineError
from ctclip_export.hashing import sha256

FILE = "engine.json"


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


@dataclass(frozen=True)
class Record:
    """The content of `engine.json`. gpu_name: "" if built without a GPU. layers: a summary."""

    onnx_sha256: str
    tensorrt_version: str
    gpu_name: str
    compute_capability: str
    profile: Shapes
    precision: str
    plan_sha256: str
    plan_bytes: int
    layers: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it whole or not at all."""
        part = folder / f".{FILE}.part"
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(folder / FILE)


def read_record(folder: Path) -> Record:
    """Read `engine.json`. Raises: EngineError."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        record = Record(**{each.name: content[each.name] for each in fields(Record)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"engine: {path} cannot be read ({type(error).__name__}: {error}).", _rebuild()
        ) from error
    return record


def difference(folder: Path, plan: str, key: Key) -> str:
    """Why the engine in `folder` is not the one that `key` describes, in words; "" if it is.

    plan: its file name.
    """
    path = folder / plan
    if not path.is_file():
        return f"there is no {plan}"
    try:
        record = read_record(folder)
    except EngineError as error:
        return error.cause
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
        return f"{plan} is not the file that {FILE} describes: its SHA-256 differs"
    return ""


def require(folder: Path, plan: str, key: Key) -> Record:
    """The record of an engine that agrees with `key`. Raises: EngineError saying what differs."""
    reason = difference(folder, plan, key)
    if reason:
        raise EngineError(f"engine: {folder / plan} is refused: {reason}.", _rebuild())
    return read_record(folder)


def _short(digest: object) -> str:
    return f"{str(digest)[:16]}…"


def _rebuild() -> str:
    return "Build it again: ctclip build-engines --repository DIR --target tensorrt."
