"""What became of the graph: the engine's layers, read from the builder's own list of them.

The builder prints the list at its most talkative level, with or without a GPU; the engine inspector
would need a GPU to load the engine first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: (?P<inputs>\[.*?\]), "
    r"(?:Constants: \[.*?\], )?Outputs: (?P<outputs>\[.*?\]), TacticName:(?P<rest>.*)$"
)
_DTYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")

_NAMES = {"Float": "float32", "Half": "float16", "BFloat16": "bfloat16"}
_PRODUCTS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class Layer:
    """One kernel or copy. nodes: what of the graph it computes; none if the builder inserted it.

    inputs, outputs: data types of its tensors, constants apart.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def floats(self) -> Set[str]:
        """Floating data types that go in and out."""
        return {dtype for dtype in (*self.inputs, *self.outputs) if dtype in _NAMES.values()}


@dataclass(frozen=True)
class Attention:
    """One softmax between two products. fused: all three are one kernel. dtype: of its input."""

    softmax: str
    fused: bool
    dtype: str


@dataclass(frozen=True)
class LayerReport:
    """attention: every block of it. products: MatMul, Gemm and Conv nodes by the type they read.

    float32_nodes: nodes that only occur in kernels without any lower precision. inserted: names of
    layers that compute no node: copies, changes of layout, host code for shapes. activation_bytes:
    what one execution context takes on the GPU, weights_bytes: what the engine takes beside it; 0
    if the builder did not say.
    """

    layers: tuple[Layer, ...]
    attention: tuple[Attention, ...]
    products: dict[str, tuple[str, ...]]
    float32_nodes: tuple[str, ...]
    inserted: tuple[str, ...]
    activation_bytes: int
    weights_bytes: int

    @property
    def fused(self) -> int:
        """Number of fused attention blocks."""
        return sum(block.fused for block in self.attention)

    def summary(self) -> dict[str, Any]:
        """The report in a few numbers, as `engine.json` holds it."""
        return {
            "layers": len(self.layers),
            "attention_blocks": len(self.attention),
            "attention_fused": self.fused,
            "products": {dtype: len(nodes) for dtype, nodes in sorted(self.products.items())},
            "inserted": len(self.inserted),
            "activation_bytes": self.activation_bytes,
            "weights_bytes": self.weights_bytes,
        }


def read_layers(log: Sequence[str], graph_path: Path) -> LayerReport | None:
    """The report from everything the builder logged; None if it did not list its layers."""
    layers = [layer for text in log for line in text.splitlines() if (layer := _layer(line))]
    if not layers:
        return None
    memory = {kind: int(size) for text in log for kind, size in _MEMORY.findall(text)}
    graph = onnx.load(graph_path, load_external_data=False).graph
    for node in graph.node:
        node.name = node.name or f"node_of_{node.output[0]}"  # as the parser names it
    nodes = {node.name: node for node in graph.node}
    low = {name for layer in layers if layer.floats - {"float32"} for name in layer.nodes}
    high = {name for layer in layers if layer.floats == {"float32"} for name in layer.nodes}
    products: dict[str, list[str]] = {}
    for name in (node.name for node in graph.node if node.op_type in _PRODUCTS):
        products.setdefault(_read_by(name, layers), []).append(name)
    return LayerReport(
        layers=tuple(layers),
        attention=tuple(_attention(graph, layers)),
        products={dtype: tuple(names) for dtype, names in products.items()},
        float32_nodes=tuple(sorted((high - low) & set(nodes))),
        inserted=tuple(layer.name for layer in layers if not layer.nodes),
        activation_bytes=memory.get("Activation", 0),
        weights_bytes=memory.get("Weights", 0),
    )


def _layer(line: str) -> Layer | None:
    found = _LAYER.match(line)
    if found is None:
        return None
    inputs, outputs = (
        tuple(_NAMES.get(name, name.lower()) for name in _DTYPE.findall(found[side]))
        for side in ("inputs", "outputs")
    )
    return Layer(found["name"], found["kind"], inputs, outputs, tuple(_NODE.findall(found["rest"])))


def _read_by(product: str, layers: Sequence[Layer]) -> str:
    """Data type that a product reads. Kernels that pad or copy for it carry its name, too."""
    homes = [layer for layer in layers if product in layer.nodes and layer.inputs]
    homes.sort(key=lambda layer: layer.kind != "kgen")
    return homes[-1].inputs[0] if homes else "folded into constants"


def _attention(graph: onnx.GraphProto, layers: Sequence[Layer]) -> list[Attention]:
    makers = {output: node for node in graph.node for output in node.output}
    blocks = []
    for softmax in (node for node in graph.node if node.op_type == "Softmax"):
        before = makers.get(softmax.input[0])
        while before is not None and before.op_type in ("Add", "Where"):  # a bias or a mask
            before = next((makers[name] for name in before.input if name in makers), None)
        after = [node for node in graph.node if softmax.output[0] in node.input]
        if before is None or before.op_type != "MatMul" or [n.op_type for n in after] != ["MatMul"]:
            continue  # the softmax of a score
        block = {before.name, softmax.name, after[0].name}
        home = next((layer for layer in layers if softmax.name in layer.nodes), None)
        fused = home is not None and block <= set(home.nodes)
        dtype = home.inputs[0] if home is not None and home.inputs else "unknown"
        blocks.append(Attention(softmax.name, fused, dtype))
    return blocks
