"""`engine.json`, beside each TensorRT plan: what the plan was built from and for.

Triton itself asks for nothing of the kind: a plan of last month's checkpoint would be served.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ctclip_client.errors import Unreadable
from ctclip_client.release.fields import OBJECT, TEXT, WHOLE, Kind, complaint, read_json
from ctclip_client.system.files import placed

ENGINE_RECORD = "engine.json"
REBUILD = "Build it again: ctclip build-engines --repository DIR --target tensorrt."

Shapes = dict[str, list[list[int]]]
"""Input name -> [smallest, most common, largest shape]."""


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


@dataclass(frozen=True)
class EngineRecord:
    """The content of `engine.json`. gpu_name: "" if built without a GPU. layers: a summary.

    compute_capability: such as "8.0". precision: of the graph's trunk.
    """

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
        with placed(folder / ENGINE_RECORD) as file:
            file.write((json.dumps(asdict(self), indent=1) + "\n").encode())


def read_engine_record(folder: Path) -> EngineRecord:
    """Read `engine.json`. Raises: Unreadable naming the field, got and expected."""
    path = folder / ENGINE_RECORD
    content = read_json(path, REBUILD)
    wrong = complaint(content, _KINDS) or complaint(
        content["layers"], _SIZES, optional=frozenset(_SIZES), inside="layers"
    )
    if wrong:
        raise Unreadable(f"{path} is damaged: {wrong}.", REBUILD)
    return EngineRecord(**{each.name: content[each.name] for each in fields(EngineRecord)})
