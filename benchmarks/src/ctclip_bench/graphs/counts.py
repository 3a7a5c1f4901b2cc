"""Operations and bytes of an ONNX graph, counted from its nodes and the shapes of its inputs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, shape_inference

from ctclip_client.errors import InvalidInput

Shape = tuple[int, ...]

_PRODUCTS = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "Gemm": 1, "FusedMatMul": 1}
"""Matrix products -> which input is the second matrix."""
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Convolutions -> which input is the kernel (out, in of a group, ...)."""
_VIEWS = {
    "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant",
}  # fmt: skip
"""Neither compute nor copy."""
_COPIES = {
    "Transpose", "Gather", "Concat", "Split", "Slice", "Expand", "Cast", "Pad", "Range",
    "ConstantOfShape", "NonZero", "DequantizeLinear", "QuantizeLinear",
}  # fmt: skip
"""Copy, or change the type, and compute nothing that is counted."""
_PRECISIONS = {
    TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8", TensorProto.UINT8: "int8", TensorProto.DOUBLE: "fp64",
}  # fmt: skip
_BYTES = {
    TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2, TensorProto.DOUBLE: 8,
    TensorProto.INT8: 1, TensorProto.UINT8: 1, TensorProto.BOOL: 1, TensorProto.INT16: 2,
    TensorProto.INT32: 4, TensorProto.INT64: 8,
}  # fmt: skip
_SHARES = {"fp16": 0.5, "bf16": 0.5, "int8": 0.25}
"""Of the bytes of float32."""
_LARGE_BYTES = 8192
"""Constants above it are no shapes: they are dropped before shapes are inferred, which is quick."""


@dataclass(frozen=True)
class Count:
    """What one run of a graph costs.

    products: operations of matrix products and convolutions, by the precision of their operands (a
    multiplication and an addition are two). search: those of them that are the code search.
    elementwise: one operation for each element of a node's largest tensor, for every other node
    that computes. bytes_least: weights, inputs and outputs once: less traffic is impossible.
    bytes_by_node: what every node reads and writes, as if nothing were fused or stayed in a cache.
    unknown: nodes whose shapes could not be inferred; they are not counted.
    """

    products: Mapping[str, float] = field(default_factory=dict)
    search: float = 0.0
    elementwise: float = 0.0
    bytes_least: float = 0.0
    bytes_by_node: float = 0.0
    unknown: tuple[str, ...] = ()

    @property
    def operations(self) -> float:
        """Products and elementwise operations."""
        return sum(self.products.values()) + self.elementwise

    def typed(self, precision: str) -> Count:
        """The same products in another precision; the code search is in float32 whatever the trunk
        is in, as `ctclip_export.precision` has it. All bytes shrink with a lower precision: some of
        them would stay float32, so that less traffic is impossible still.
        """
        whole = sum(self.products.values())
        if not whole:
            return self
        products = {precision: whole - self.search}
        if self.search:
            products["fp32"] = products.get("fp32", 0.0) + self.search
        share = _SHARES.get(precision, 1.0)
        return replace(
            self, products=products, bytes_least=self.bytes_least * share,
            bytes_by_node=self.bytes_by_node * share,
        )  # fmt: skip


@dataclass(frozen=True)
class _Tensor:
    shape: Shape
    dtype: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * _BYTES.get(self.dtype, 0)


def count_graph(
    path: Path,
    inputs: Mapping[str, Sequence[int]],
    values: Mapping[str, NDArray[Any]] | None = None,
) -> Count:
    """Count a graph for inputs of these shapes, by name.

    values: of small inputs on which shapes inside depend, such as SPACING in preprocessing.
    Guards (a `Reshape` to a shape that a `Where` chooses) are taken as passed. Bodies of `Scan`
    count once for each step. Raises: InvalidInput for inputs that the graph does not have, or a
    graph with loops or branches, whose number of steps no shape tells.
    """
    model = onnx.load(path)
    graph = model.graph
    for value in graph.input:
        if value.name not in inputs:
            raise InvalidInput(
                f"{path.name}: no shape is given for its input {value.name}.",
                f"Give shapes of {', '.join(each.name for each in graph.input)}.",
            )
        given = inputs[value.name]
        del value.type.tensor_type.shape.dim[:]
        for size in given:
            value.type.tensor_type.shape.dim.add().dim_value = int(size)
    ends = [value.name for value in (*graph.input, *graph.output)]
    weights = [tensor.name for tensor in graph.initializer]
    if values:
        model = _folded(model, values)
        graph = model.graph
    _lighten(graph)
    # Shapes beyond a guard are found only where it is passed, and some only where it is not.
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    _pass_guards(graph)
    passed = shape_inference.infer_shapes(model, data_prop=True).graph
    tensors = _tensors(inferred, _tensors(passed, {}))
    counter = _Counter(inferred)
    counter.nodes(inferred, tensors, 1)
    return counter.finished(tensors, ends, weights)


def _folded(model: onnx.ModelProto, values: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """With inputs as constants, and all that follows from them computed: ONNX Runtime folds it."""
    for value in list(model.graph.input):
        if value.name in values:
            model.graph.input.remove(value)
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(values[value.name], value.name)
            )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="ctclip-bench-") as folder:
        options.optimized_model_filepath = f"{folder}/folded.onnx"
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        folded = onnx.load(options.optimized_model_filepath)
    constants = {tensor.name: tensor for tensor in folded.graph.initializer}
    for node in folded.graph.node:  # a body's shapes are inferred from what lies in it
        for body in (each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH):
            used = {name for inner in body.node for name in inner.input if name in constants}
            body.initializer.extend(constants[name] for name in sorted(used))
    return folded


def _lighten(graph: onnx.GraphProto) -> None:
    """Declare large constants as inputs: their shapes are all that matters."""
    small = []
    for tensor in graph.initializer:
        if math.prod(tensor.dims) * _BYTES.get(tensor.data_type, 1) <= _LARGE_BYTES:
            small.append(tensor)
            continue
        info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        graph.input.append(info)
    del graph.initializer[:]
    graph.initializer.extend(small)


def _pass_guards(graph: onnx.GraphProto) -> None:
    """Give a guarded `Reshape` the shape that its guard lets pass."""
    constants = {tensor.name for tensor in graph.initializer}
    passed = {
        node.output[0]: node.input[1]
        for node in graph.node
        if node.op_type == "Where" and node.input[1] in constants
    }
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in passed:
            node.input[1] = passed[node.input[1]]


def _tensors(graph: onnx.GraphProto, outer: Mapping[str, _Tensor]) -> dict[str, _Tensor]:
    """Shape and type of everything that has a known one, in this graph and around it."""
    found = dict(outer)
    for value in [*graph.input, *graph.value_info, *graph.output]:
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shape = tuple(int(dim.dim_value) for dim in dims)
            found[value.name] = _Tensor(shape, kind.elem_type)
    for tensor in graph.initializer:
        found[tensor.name] = _Tensor(tuple(tensor.dims), tensor.data_type)
    return found


class _Counter:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.products: dict[str, float] = {}
        self.search = self.elementwise = self.bytes = 0.0
        self.unknown: list[str] = []
        self.gathered: dict[str, float] = {}  # constants of which only some rows are read
        self.read: set[str] = set()
        self._searches = {
            node.input[0] for node in graph.node if node.op_type == "ArgMax"
        }  # what the largest is taken of
        self._quantised = {
            output
            for node in graph.node
            if node.op_type == "DequantizeLinear"
            for output in node.output
        }

    def nodes(self, graph: onnx.GraphProto, tensors: Mapping[str, _Tensor], times: int) -> None:
        for node in graph.node:
            if node.op_type in ("Loop", "If"):
                raise InvalidInput(
                    f"the graph has a node {node.op_type}: its steps cannot be counted.",
                    "Count a graph without loops and branches.",
                )
            if node.op_type == "Scan":
                self._scan(node, tensors, times)
                continue
            self.read.update(name for name in node.input if node.op_type != "Gather")
            needed = [*node.output]
            if node.op_type in _PRODUCTS or node.op_type in _CONVOLUTIONS:
                needed += node.input
            if any(name and name not in tensors for name in needed):
                self.unknown.append(f"{node.op_type} {node.name or node.output[0]}")
                continue
            self._node(node, tensors, times)

    def _scan(self, node: onnx.NodeProto, tensors: Mapping[str, _Tensor], times: int) -> None:
        attributes = {each.name: each for each in node.attribute}
        sequences = node.input[len(node.input) - attributes["num_scan_inputs"].i :]
        if sequences[0] not in tensors:
            self.unknown.append(f"Scan {node.name or node.output[0]}")
            return
        steps = tensors[sequences[0]].shape[0]
        body = attributes["body"].g
        self.nodes(body, _tensors(body, tensors), times * steps)

    def _node(self, node: onnx.NodeProto, tensors: Mapping[str, _Tensor], times: int) -> None:
        kind = node.op_type
        if kind in _VIEWS:
            return
        ins = [tensors[name] for name in node.input if name in tensors]
        outs = [tensors[name] for name in node.output if name]
        written = sum(tensor.bytes for tensor in outs)
        if kind == "Gather":  # reads what it returns, however much there is
            rows = self.gathered.get(node.input[0], 0.0)
            self.gathered[node.input[0]] = rows + written * times
            self.bytes += times * (2 * written + sum(each.bytes for each in ins[1:]))
            return
        self.bytes += times * (written + sum(tensor.bytes for tensor in ins))
        if kind in _PRODUCTS or kind in _CONVOLUTIONS:
            self._product(node, tensors, outs[0], times)
        elif kind not in _COPIES:
            self.elementwise += times * max(tensor.elements for tensor in (*ins, *outs))

    def _product(
        self, node: onnx.NodeProto, tensors: Mapping[str, _Tensor], out: _Tensor, times: int
    ) -> None:
        first = tensors[node.input[0]]
        if node.op_type in _CONVOLUTIONS:
            kernel = tensors[node.input[_CONVOLUTIONS[node.op_type]]]
            inner = math.prod(kernel.shape[1:])
        else:
            turned = any(each.name == "transA" and each.i for each in node.attribute)
            inner = first.shape[-2 if turned else -1]
        operations = 2.0 * out.elements * inner * times
        second = node.input[(_PRODUCTS | _CONVOLUTIONS)[node.op_type]]
        both = node.input[0] in self._quantised and second in self._quantised
        precision = "int8" if both else _PRECISIONS.get(first.dtype, "fp32")
        self.products[precision] = self.products.get(precision, 0.0) + operations
        if node.output[0] in self._searches:
            self.search += operations

    def finished(
        self, tensors: Mapping[str, _Tensor], ends: Sequence[str], weights: Sequence[str]
    ) -> Count:
        """ends: inputs and outputs of the graph."""
        least = float(sum(tensors[name].bytes for name in ends if name in tensors))
        for name in weights:
            if name not in tensors:  # folded away
                continue
            size = tensors[name].bytes
            least += size if name in self.read else min(size, self.gathered.get(name, 0.0))
        return Count(
            self.products, self.search, self.elementwise, least, self.bytes, tuple(self.unknown)
        )
