"""Which shapes an engine is built for: smallest, most common and largest of every free axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from ctclip_client.contract import MAX_TOKENS, TEXT_ENCODER, VISION, Model
from ctclip_client.release.engines import Shapes
from ctclip_export.engines.target import EngineError

Range = tuple[int, int, int]

# By the names of free axes in the graphs.
_AXES: Mapping[str, Range] = {
    "V": (1, 1, 16),  # volumes of one request
    "lengths": (1, 1, 16),  # an IMAGE_NORM for each
    "twoP": (2, 36, 1024),  # prompts, in pairs
    "length": (1, 16, MAX_TOKENS),  # "X is not present." has 5 to 12 tokens
}
_COMMON_BATCH = {VISION.name: 1, TEXT_ENCODER.name: 36}
"""One scan at a time, and a bank of 18 findings with two sentences each."""


def profile_of(model: Model, graph: Path) -> Shapes:
    """Shapes for every input of an ONNX file; "batch" runs to the model's `max_batch_size`.

    Raises: EngineError naming an axis without a range.
    """
    batch = (1, min(_COMMON_BATCH.get(model.name, 1), model.max_batch_size), model.max_batch_size)
    axes = {**_AXES, "batch": batch}
    shapes: Shapes = {}
    for value in onnx.load(graph, load_external_data=False).graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [dim.dim_param for dim in dims if dim.dim_param]
        unknown = next((name for name in free if name not in axes), None)
        if unknown is not None or not all(dim.dim_param or dim.dim_value > 0 for dim in dims):
            raise EngineError(
                f"{model.name}: input {value.name} has a free axis '{unknown}' of unknown range.",
                f"Export it again; engines are built for the axes {', '.join(axes)}.",
            )
        shapes[value.name] = [
            [axes[dim.dim_param][which] if dim.dim_param else dim.dim_value for dim in dims]
            for which in range(3)
        ]
    return shapes
