"""Constants of graphs that are written as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


def add_constants(model: onnx.ModelProto, **values: Any) -> None:
    """Give a graph its initializers by name; values are arrays or NumPy scalars, dtypes kept."""
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()
    )


def name_node(model: onnx.ModelProto, output: str, name: str) -> None:
    """Name the node that makes `output`. Runtimes put the name into their error messages."""
    for node in model.graph.node:
        if node.output[0] == output:
            node.name = name
