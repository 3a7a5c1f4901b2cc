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

_PRODUCTS = ("MatMul", "Gemm", "Conv")
_VIEWS = (
    "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant",
)  # fmt: skip
"""Neither compute nor copy."""
_COPIES = (
    "Transpose", "Gather", "Concat", "Split", "Slice", "Expand", "Cast", "Pad", "Range",
    "ConstantOfShape", "NonZero", "DequantizeLinear", "QuantizeLinear",
)  # fmt: skip
"""Copy, or change the type, and compute nothing that is counted."""
_UNCOUNTED = (
    "Loop", "If", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "ConvInteger", "QLinearConv",
    "ConvTranspose", "Einsum",
)  # fmt: skip
"""Their steps, or products, would be missed; no export has them."""
_TYPES = {
    TensorProto.FLOAT: ("fp32", 4), TensorProto.FLOAT16: ("fp16", 2),
    TensorProto.BFLOAT16: ("bf16", 2), TensorProto.DOUBLE: ("fp64", 8),
    TensorProto.INT8: ("int8", 1), TensorProto.UINT8: ("int8", 1), TensorProto.BOOL: ("bool", 1),
    TensorProto.INT16: ("int16", 2), TensorProto.INT32: ("int32", 4),
    TensorProto.INT64: ("int64", 8),
}  # fmt: skip
"""Precision, and bytes of an element."""
_SHARES = {"fp16": 0.5, "bf16": 0.5, "int8": 0.25}
"""Of the bytes of float32."""
_LARGE_BYTES = 8192
"""Constants above it are no shapes: without them, shapes are inferred quickly."""


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
    shape: tuple[int, ...]
    dtype: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * _TYPES[self.dtype][1]


def count_graph(
    path: Path,
    inputs: Mapping[str, Sequence[int]],
    values: Mapping[str, NDArray[Any]] | None = None,
) -> Count:
    """Count a graph for inputs of these shapes, by name.

    values: of small inputs on which shapes inside depend, such as SPACING in preprocessing.
    Guards (a `Reshape` to a shape that a `Where` chooses) are taken as passed. Bodies of `Scan`
    count once for each step. Raises: InvalidInput for inputs that the graph does not have, or a
    graph with loops or branches, whose number of steps no shape tells, or other products.
    """
    model = onnx.load(path)
    graph = model.graph
    for value in graph.input:
        if value.name not in inputs:
            raise InvalidInput(
                f"{path.name}: no shape is given for its input {value.name}.",
                f"Give shapes of {', '.join(each.name for each in graph.input)}.",
            )
        del value.type.tensor_type.shape.dim[:]
        for size in inputs[value.name]:
            value.type.tensor_type.shape.dim.add().dim_value = int(size)
    ends = [value.name for value in (*graph.input, *graph.output)]
    weights = [tensor.name for tensor in graph.initializer]
    if values:
        model = _folded(model, values)
        graph = model.graph
    for tensor in graph.initializer:  # of large constants shapes are all that matters
        if math.prod(tensor.dims) * _TYPES[tensor.data_type][1] > _LARGE_BYTES:
            tensor.ClearField("raw_data")
    # Shapes beyond a guard are found only where it is passed, and some only where it is not.
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    _pass_guards(graph)
    passed = shape_inference.infer_shapes(model, data_prop=True).graph
    tensors = _tensors(inferred, _tensors(passed, {}))
    counter = _Counter(inferred)
    counter.nodes(inferred, tensors, 1)
    least = sum(tensors[name].bytes for name in ends if name in tensors)
    for name in weights:
        if name in tensors:  # else it was folded away
            size = tensors[name].bytes
            least += size if name in counter.read else min(size, counter.gathered.get(name, 0))
    return Count(
        counter.products, counter.search, counter.elementwise, float(least), counter.bytes,
        tuple(counter.unknown),
    )  # fmt: skip


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
    """Sums over the nodes of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.products: dict[str, float] = {}
        self.search = self.elementwise = self.bytes = 0.0
        self.unknown: list[str] = []
        self.gathered: dict[str, int] = {}  # constants of which only some rows are read
        self.read: set[str] = set()
        nodes = graph.node
        self._searches = {node.input[0] for node in nodes if node.op_type == "ArgMax"}
        self._quantised = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}

    def nodes(self, graph: onnx.GraphProto, tensors: Mapping[str, _Tensor], times: int) -> None:
        """Add those of a graph, or of a `Scan`'s body, that run so many times."""
        for node in graph.node:
            kind = node.op_type
            if kind in _UNCOUNTED:
                raise InvalidInput(f"the graph has a node {kind}, which cannot be counted.")
            if kind == "Scan":
                attributes = {each.name: each for each in node.attribute}
                sequence = node.input[len(node.input) - attributes["num_scan_inputs"].i]
                body = attributes["body"].g
                if sequence in tensors:
                    steps = times * tensors[sequence].shape[0]
                    self.nodes(body, _tensors(body, tensors), steps)
                    continue
            elif kind != "Gather":
                self.read.update(node.input)
            needed = [*node.output, *(node.input if kind in _PRODUCTS else [])]
            if any(name and name not in tensors for name in needed):
                self.unknown.append(f"{kind} {node.name or node.output[0]}")
            elif kind not in _VIEWS:
                self._node(node, tensors, times)

    def _node(self, node: onnx.NodeProto, tensors: Mapping[str, _Tensor], times: int) -> None:
        ins = [tensors[name] for name in node.input if name in tensors]
        outs = [tensors[name] for name in node.output if name]
        written = sum(tensor.bytes for tensor in outs)
        if node.op_type == "Gather":  # reads what it returns, however much there is
            table = node.input[0]
            self.gathered[table] = self.gathered.get(table, 0) + written * times
            self.bytes += times * (2 * written + sum(each.bytes for each in ins[1:]))
            return
        self.bytes += times * (written + sum(tensor.bytes for tensor in ins))
        if node.op_type in _PRODUCTS:
            if node.op_type == "Conv":
                inner = math.prod(ins[1].shape[1:])  # of a kernel (out, in of a group, ...)
            else:
                turned = any(each.name == "transA" and each.i for each in node.attribute)
                inner = ins[0].shape[-2 if turned else -1]
            operations = 2.0 * outs[0].elements * inner * times
            both = {*node.input[:2]} <= self._quantised
            precision = "int8" if both else _TYPES[ins[0].dtype][0]
            self.products[precision] = self.products.get(precision, 0.0) + operations
            if node.output[0] in self._searches:
                self.search += operations
        elif node.op_type not in _COPIES:
            self.elementwise += times * max(tensor.elements for tensor in (*ins, *outs))
