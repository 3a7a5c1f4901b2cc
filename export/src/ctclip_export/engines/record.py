"""`engine.json`: what an engine was built from and for. An engine that differs is never used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ctclip_client.release.digest import sha256
from ctclip_client.release.fields import OBJECT, TEXT, WHOLE, Kind, complaint
from ctclip_client.system.files import placed
from ctclip_export.engines.profile import Shapes
from ctclip_export.engines.target import EngineError

FILE = "engine.json"


def _are_shapes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(shapes, list)
        and all(isinstance(shape, list) and all(map(WHOLE.holds, shape)) for shape in shapes)
        for shapes in value.values()
    )


_KINDS = {
    "onnx_sha256": TEXT,
    "tensorrt_version": TEXT,
    "gpu_name": TEXT,
    "compute_capability": TEXT,
    "profile": Kind(_are_shapes, "an object of shapes for each input"),
    "precision": TEXT,
    "plan_sha256": TEXT,
    "plan_bytes": WHOLE,
    "layers": OBJECT,
}
_SIZES = {"activation_bytes": WHOLE, "weights_bytes": WHOLE}
_ALL_SIZES = frozenset(_SIZES)


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
        """Write it whole or not at all. Raises: OSError."""
        with placed(folder / FILE) as file:
            file.write((json.dumps(asdict(self), indent=1) + "\n").encode())


def read_record(folder: Path) -> Record:
    """Read `engine.json`. Raises: EngineError naming the field, got and expected."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            f"engine: {path} cannot be read ({type(error).__name__}: {error}).", _rebuild()
        ) from error
    wrong = complaint(content, _KINDS)
    if not wrong and (of_layers := complaint(content["layers"], _SIZES, optional=_ALL_SIZES)):
        wrong = f"layers.{of_layers}"
    if wrong:
        raise EngineError(f"engine: {path} is damaged: {wrong}.", _rebuild())
    return Record(**{each.name: content[each.name] for each in fields(Record)})


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
