"""Which products of a traced graph are which layers of the model."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from ctclip_export.model.dense import Dense


def dense_products(graph: onnx.GraphProto, model: nn.Module) -> dict[str, str]:
    """Name of the MatMul node -> name of the `Dense` layer whose weights it multiplies with.

    In the order of computation. The exporter transposes and renames weights, so they are found by
    their values; layers whose weights are equal are told apart by their order, which is the model's
    in both. What is no `Dense` layer (attention, code search, joint projection) is not listed.
    Raises: RuntimeError if a layer has no product in the graph, or a product no layer.
    """
    layers: dict[bytes, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Dense):
            digest = _digest(module.weight.detach().numpy().T)
            layers.setdefault(digest, []).append(name)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            digest = _digest(numpy_helper.to_array(constants[node.input[1]]))
            if digest not in layers:
                continue
            if not layers[digest]:
                raise RuntimeError(f"{node.name} multiplies with weights that an earlier one has")
            found[node.name] = layers[digest].pop(0)
    missing = sorted(name for names in layers.values() for name in names)
    if missing:
        raise RuntimeError(f"no product in the traced graph multiplies with {missing[0]}.weight")
    return found


def _digest(matrix: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(f"{matrix.shape}".encode() + matrix.tobytes()).digest()
