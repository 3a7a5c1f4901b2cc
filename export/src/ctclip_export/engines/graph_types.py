"""What a graph must not do in low precision; read before an engine is built from it.

LayerNormalization, Gelu and Softmax as single operators keep float32 inside. Spelled out in
float16, their squares, exponentials and error functions overflow or lose every digit, and nothing
downstream says so. Lengths of vectors are sums of squares, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, shape_inference

from ctclip_export.engines.target import EngineError

_LOW: dict[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
_INT8 = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_WANTED = {"fp16": "float16", "bf16": "bfloat16"}

_DECOMPOSED = {
    "Erf": "Gelu",
    "Tanh": "Gelu (its tanh form)",
    "Exp": "Softmax",
    "Sqrt": "LayerNormalization",
    "Reciprocal": "LayerNormalization",
    "ReduceMean": "LayerNormalization",
    "ReduceSumSquare": "an L2 norm",
    "ReduceL2": "an L2 norm",
    "LpNormalization": "an L2 norm",
}
"""Operators that our graphs use in low precision only where a whole operator was taken apart."""
_ISLANDS = {"ArgMax": "searches the codebook", "TopK": "searches the codebook"}
"""Operators that must see float32: another code is not a small error."""


def check_typed_graph(path: Path, precision: str) -> None:
    """Refuse a graph that is not what its precision promises.

    precision: fp32, fp16, bf16 or int8. Raises: EngineError naming the node.
    """
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Einsum":
            raise _refused(path, node, "is an Einsum, which no attention kernel matches")
    _check_int8(path, model.graph, precision)
    graph = _without_weights(path, model)
    found = list(_low_precision(graph))
    wanted = _WANTED.get(precision)
    if wanted and not any(dtype == wanted for _, dtype in found):
        raise EngineError(
            f"{path.parent.parent.name}: the release is {precision}, but nothing in its graph "
            f"computes in {wanted}.",
            f"Export it again with --precision {precision}.",
        )
    for node, dtype in found:
        if dtype != wanted:
            raise _refused(path, node, f"computes in {dtype}, but the release is {precision}")
        if node.op_type in _DECOMPOSED:
            whole = _DECOMPOSED[node.op_type]
            raise _refused(path, node, f"is a decomposed {whole} in {dtype}")
        if node.op_type in _ISLANDS:
            raise _refused(path, node, f"{_ISLANDS[node.op_type]} in {dtype}")
        if any(
            each.name == "stash_type" and each.i != TensorProto.FLOAT for each in node.attribute
        ):
            raise _refused(path, node, f"keeps its statistics in {dtype}")


def _low_precision(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Nodes that compute in a low precision: from it into it. A Cast only leads there."""
    types = {init.name: init.data_type for init in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        types[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        if node.op_type in ("Cast", "Constant"):
            continue
        for name in (*node.input[:1], *node.output[:1]):
            if types.get(name) in _LOW:
                yield node, _LOW[types[name]]
                break


def _check_int8(path: Path, graph: onnx.GraphProto, precision: str) -> None:
    """int8 where it is promised and nowhere else, with zero points of 0, outside of the islands."""
    rounding = [node for node in graph.node if node.op_type in _INT8]
    if precision != "int8":
        if rounding:
            raise _refused(path, rounding[0], f"rounds to int8, but the release is {precision}")
        return
    if not rounding:
        raise EngineError(
            f"{path.parent.parent.name}: the release is int8, but nothing in its graph is.",
            "Export it again with --precision int8.",
        )
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in rounding:
        zero_point = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero_point is None or onnx.numpy_helper.to_array(zero_point).any():
            raise _refused(path, node, "has a zero point other than 0: no engine takes it")
    rounded = {node.output[0] for node in rounding}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        search = makers.get(node.input[0]) if node.op_type in _ISLANDS else None
        if search is not None and rounded & set(search.input):
            raise _refused(path, search, f"{_ISLANDS[node.op_type]} in int8")


def _without_weights(path: Path, model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with inferred types. Weights do not change a type, and copying 700 MB takes time.

    Raises: EngineError where the types cannot be inferred: a check that cannot see passes nothing.
    """
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 1024:
            tensor.ClearField("raw_data")
    inferred = shape_inference.infer_shapes(model).graph
    known = {value.name for value in [*inferred.value_info, *inferred.output]}
    for node in inferred.node:
        for output in node.output:
            if output and output not in known:
                raise _refused(path, node, f"has an output '{output}' of unknown type")
    return inferred


def _refused(path: Path, node: onnx.NodeProto, why: str) -> EngineError:
    return EngineError(
        f"{path.parent.parent.name}: node '{node.name or node.output[0]}' ({node.op_type}) {why}.",
        "No engine was built. Export the checkpoint again with ctclip export.",
    )
