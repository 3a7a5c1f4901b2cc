"""What an ONNX file says about itself, read without its weights.

`onnx.load` would read a gigabyte to tell two numbers and four names; here large fields are stepped
over in a memory map.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, ValueInfoProto

from ctclip_client.release.onnx_file import Versions, fields, string, versions

FREE = -1

# Field numbers of onnx.proto: ModelProto, GraphProto, TensorProto.
_GRAPH = 7
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12
_TENSOR_NAME, _DATA_LOCATION, _EXTERNAL = 8, 14, 1

_TRITON_NAMES = {
    TensorProto.FLOAT: "FP32", TensorProto.DOUBLE: "FP64", TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16", TensorProto.INT8: "INT8", TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32", TensorProto.INT64: "INT64", TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL", TensorProto.STRING: "STRING",
}  # fmt: skip


@dataclass(frozen=True)
class GraphTensor:
    """dtype: as Triton calls it. dims: axes, -1 for free ones; None where the file states none."""

    dtype: str
    dims: tuple[int, ...] | None


@dataclass(frozen=True)
class Outline:
    """The file's versions, and the graph's inputs and outputs by name.

    external: initializers whose values lie in another file.
    """

    versions: Versions
    inputs: Mapping[str, GraphTensor]
    outputs: Mapping[str, GraphTensor]
    external: tuple[str, ...]


def read_outline(path: Path) -> Outline:
    """Read the outline of an ONNX file.

    Raises:
        ValueError: the file is no ModelProto.
        OSError: it cannot be read.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _outline(data)
        except (DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"it is no ONNX model ({error})") from error


def _outline(data: mmap.mmap) -> Outline:
    graph = dict(fields(data, 0, len(data))).get(_GRAPH)
    if not isinstance(graph, tuple):
        raise ValueError("it has no graph: not an ONNX model")
    inputs: dict[str, GraphTensor] = {}
    outputs: dict[str, GraphTensor] = {}
    initializers, external = set(), []
    for field, value in fields(data, *graph):
        if not isinstance(value, tuple):
            continue
        if field in (_INPUT, _OUTPUT):
            info = ValueInfoProto.FromString(data[value[0] : value[1]])
            (inputs if field == _INPUT else outputs)[info.name] = _tensor(info)
        elif field == _INITIALIZER:
            entry = dict(fields(data, *value))
            name = string(data, entry.get(_TENSOR_NAME))
            initializers.add(name)
            if entry.get(_DATA_LOCATION) == _EXTERNAL:
                external.append(name)
    needed = {name: tensor for name, tensor in inputs.items() if name not in initializers}
    return Outline(versions(data), needed, outputs, tuple(external))


def _tensor(info: ValueInfoProto) -> GraphTensor:
    kind = info.type.tensor_type
    dtype = _TRITON_NAMES.get(kind.elem_type, "")
    if not kind.HasField("shape"):
        return GraphTensor(dtype, None)
    return GraphTensor(
        dtype,
        tuple(d.dim_value if d.HasField("dim_value") else FREE for d in kind.shape.dim),
    )
