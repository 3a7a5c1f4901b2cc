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
    their values. What is no `Dense` layer (attention, code search, joint projection) is not listed.
    Raises: RuntimeError if a layer has no product in the graph.
    """
    layers = {
        _digest(module.weight.detach().numpy().T): name
        for name, module in model.named_modules()
        if isinstance(module, Dense)
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            digest = _digest(numpy_helper.to_array(constants[node.input[1]]))
            if digest in layers:
                found[node.name] = layers[digest]
    missing = sorted(set(layers.values()) - set(found.values()))
    if missing:
        raise RuntimeError(f"no product in the traced graph multiplies with {missing[0]}.weight")
    return found


def _digest(matrix: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(f"{matrix.shape}".encode() + matrix.tobytes()).digest()
