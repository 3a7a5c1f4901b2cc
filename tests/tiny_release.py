"""The smallest release there can be: `ctclip_check`, a graph that adds a number, an ensemble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ctclip_client.contract import CHECK, PUBLISHED_DIMENSIONS
from ctclip_client.release.digest import sha256
from ctclip_export.repository.configs import model_config
from ctclip_export.repository.python_models import copy_sources

GRAPH, ENSEMBLE = "shift", "shifted"
X = np.array([[1, 2]], np.float32)

_GRAPH_CONFIG = """name: "shift"
backend: "onnxruntime"
max_batch_size: 0
version_policy { specific { versions: [1] } }
input [ { name: "X", data_type: TYPE_FP32, dims: [-1, 2] } ]
output [ { name: "Y", data_type: TYPE_FP32, dims: [-1, 2] } ]
instance_group [ { count: 1, kind: KIND_CPU } ]
"""
_VARIANT = 'parameters { key: "intra_op_thread_count", value { string_value: "1" } }\n'
_ENSEMBLE_CONFIG = """name: "shifted"
platform: "ensemble"
version_policy { specific { versions: [1] } }
input [
  { name: "X", data_type: TYPE_FP32, dims: [-1, 2] },
  { name: "SPACING", data_type: TYPE_FP64, dims: [3] },
  { name: "RESCALE", data_type: TYPE_FP32, dims: [2] }
]
output [
  { name: "Y", data_type: TYPE_FP32, dims: [-1, 2] },
  { name: "PROVENANCE", data_type: TYPE_STRING, dims: [1] }
]
ensemble_scheduling {
  step [
    {
      model_name: "ctclip_check"
      model_version: 1
      input_map { key: "SPACING", value: "SPACING" }
      input_map { key: "RESCALE", value: "RESCALE" }
      output_map { key: "PROVENANCE", value: "PROVENANCE" }
    },
    {
      model_name: "shift"
      model_version: 1
      input_map { key: "X", value: "X" }
      output_map { key: "Y", value: "Y" }
    }
  ]
}
"""


def result(**changes: Any) -> dict[str, Any]:
    """One comparison, as `ctclip export` writes it into `provenance.json`."""
    sound = {
        "model": GRAPH, "quantity": "Y", "measured": 1e-6, "absolute": 1e-4, "relative": 0.0,
    }  # fmt: skip
    return sound | changes


def write_record(folder: Path, release: str = "r", **changes: Any) -> None:
    """A `provenance.json`, as `ctclip export` writes it."""
    content = {
        "release": {
            "release": release, "contract_version": 1, "precision": "fp32",
            "checkpoint": {"name": "a.pt", "sha256": "0", "random_weights": True},
            "geometry": {"volume_shape": [8, 8, 8], "target_spacing_mm": [1.5, 1, 1],
                         "token_shape": [1, 1, 1]},
            "findings": ["A"], "prompts": [{"finding": "A", "present": "a", "absent": "b"}],
        },
        "file": "model.onnx", "file_sha256": "0", "vocabulary_sha256": "0",
        "parity": [result()], "tools": {},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps(content | changes))


def write_release(repository: Path, release: str, number: float, version: int = 1) -> Path:
    """A repository whose ensemble answers Y = X + number, and the release's name."""
    check, graph, ensemble = (repository / name for name in (CHECK.name, GRAPH, ENSEMBLE))
    for folder in (check, graph, ensemble):
        (folder / str(version)).mkdir(parents=True)
    (check / "config.pbtxt").write_text(model_config(CHECK, PUBLISHED_DIMENSIONS))
    (graph / "config.pbtxt").write_text(_GRAPH_CONFIG)
    (graph / "configs").mkdir()
    (graph / "configs" / "one-thread.pbtxt").write_text(_GRAPH_CONFIG + _VARIANT)
    tensorrt = _GRAPH_CONFIG.replace("onnxruntime", "tensorrt")
    (graph / "configs" / "tensorrt.pbtxt").write_text(tensorrt)
    (ensemble / "config.pbtxt").write_text(_ENSEMBLE_CONFIG)

    copy_sources(CHECK.name, check / str(version))
    model = check / str(version) / "model.py"
    write_record(model.parent, release, file=model.name, file_sha256=sha256(model), parity=[])

    info = helper.make_tensor_value_info
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["X", "C"], ["Y"])],
            GRAPH,
            [info("X", TensorProto.FLOAT, ("n", 2))],
            [info("Y", TensorProto.FLOAT, ("n", 2))],
            [helper.make_tensor("C", TensorProto.FLOAT, (), [number])],
        ),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 20)],
    )
    file = graph / str(version) / "model.onnx"
    onnx.save(proto, file)
    write_record(file.parent, release, file_sha256=sha256(file))
    return repository
