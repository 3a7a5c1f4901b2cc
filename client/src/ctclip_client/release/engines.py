"""`engine.json`, beside each TensorRT plan: what the plan was built from and for.

Triton itself asks for nothing of the kind: a plan of last month's checkpoint would be served.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ctclip_client.release.json_records import WrongFieldError, damaged, parse, read_record
from ctclip_client.system.files import placed

ENGINE_RECORD = "engine.json"
REBUILD = "Build it again: ctclip build-engines --repository DIR --target tensorrt."

Shapes = dict[str, list[list[int]]]
"""Input name -> [smallest, most common, largest shape]."""


@dataclass(frozen=True)
class _Sizes:
    activation_bytes: int = 0
    weights_bytes: int = 0


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
    record = read_record(EngineRecord, path, REBUILD)
    try:
        parse(_Sizes, record.layers, "layers")
    except WrongFieldError as error:
        raise damaged(path, str(error), REBUILD) from error
    return record
