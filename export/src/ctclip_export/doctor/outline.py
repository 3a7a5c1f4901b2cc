"""What an ONNX file says about itself, read without its weights.

`onnx.load` would read a gigabyte to tell two numbers and four names; here large fields are stepped
over in a memory map.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, ValueInfoProto

FREE = -1

# Field numbers of onnx.proto: ModelProto, GraphProto, TensorProto.
_IR_VERSION, _GRAPH, _OPSET_IMPORT = 1, 7, 8
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12
_TENSOR_NAME, _DATA_LOCATION, _EXTERNAL = 8, 14, 1
_DOMAIN, _OPSET_VERSION = 1, 2

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
    """ir_version and opsets (domain -> version), inputs and outputs by name.

    external: initializers whose values lie in another file.
    """

    ir_version: int
    opsets: Mapping[str, int]
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
    ir_version, opsets = 0, {}
    graph: tuple[int, int] | None = None
    for field, value in _fields(data, 0, len(data)):
        if field == _IR_VERSION and isinstance(value, int):
            ir_version = value
        elif field == _OPSET_IMPORT and isinstance(value, tuple):
            entry = dict(_fields(data, *value))
            version = entry.get(_OPSET_VERSION, 0)
            opsets[_string(data, entry.get(_DOMAIN))] = version if isinstance(version, int) else 0
        elif field == _GRAPH and isinstance(value, tuple):
            graph = value
    if not ir_version or not opsets or graph is None:
        raise ValueError("it has no IR version, operator set or graph")
    inputs: dict[str, GraphTensor] = {}
    outputs: dict[str, GraphTensor] = {}
    initializers, external = set(), []
    for field, value in _fields(data, *graph):
        if not isinstance(value, tuple):
            continue
        if field in (_INPUT, _OUTPUT):
            info = ValueInfoProto.FromString(data[value[0] : value[1]])
            (inputs if field == _INPUT else outputs)[info.name] = _tensor(info)
        elif field == _INITIALIZER:
            entry = dict(_fields(data, *value))
            name = _string(data, entry.get(_TENSOR_NAME))
            initializers.add(name)
            if entry.get(_DATA_LOCATION) == _EXTERNAL:
                external.append(name)
    needed = {name: tensor for name, tensor in inputs.items() if name not in initializers}
    return Outline(ir_version, opsets, needed, outputs, tuple(external))


def _tensor(info: ValueInfoProto) -> GraphTensor:
    kind = info.type.tensor_type
    dtype = _TRITON_NAMES.get(kind.elem_type, "")
    if not kind.HasField("shape"):
        return GraphTensor(dtype, None)
    return GraphTensor(
        dtype,
        tuple(d.dim_value if d.HasField("dim_value") else FREE for d in kind.shape.dim),
    )


def _string(data: mmap.mmap, bounds: int | tuple[int, int] | None) -> str:
    return data[bounds[0] : bounds[1]].decode("utf-8") if isinstance(bounds, tuple) else ""


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """(field number, value) of one protobuf message: a number, or the bounds of its bytes."""
    position = start
    while position < end:
        key, position = _varint(data, position, end)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _varint(data, position, end)
            yield key >> 3, value
            continue
        if wire_type == 2:
            length, position = _varint(data, position, end)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError("it is no protobuf message")
        if position + length > end:
            raise ValueError("it is cut short")
        yield key >> 3, (position, position + length)
        position += length


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("it is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise ValueError("it is no protobuf message")
