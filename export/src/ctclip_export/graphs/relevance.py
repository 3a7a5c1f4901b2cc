"""Relevance maps as an ONNX graph: every token's share of each finding's logit difference."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import parser

from ctclip_export.graphs.constants import add_constants, name_node
from ctclip_export.graphs.versions import IR_VERSION, OPSET

# Indices out of range are refused here, on shapes: a GPU's Gather would read on silently.
_REFUSAL = (
    "CODES must lie inside the codebook, and IMAGE_NORM must hold one finite length above 0 for "
    "each volume"
)

_GRAPH = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
ctclip_relevance (int32[V,{slabs},{rows},{columns}] CODES, float[lengths,1] IMAGE_NORM)
    => (float[V,{findings},{slabs},{rows},{columns}] RELEVANCE)
{{
    largest_code = ReduceMax <keepdims = 0> (CODES)
    smallest_code = ReduceMin <keepdims = 0> (CODES)
    largest_norm = ReduceMax <keepdims = 0> (IMAGE_NORM)
    smallest_norm = ReduceMin <keepdims = 0> (IMAGE_NORM)
    below = Less (largest_code, code_count)
    not_negative = GreaterOrEqual (smallest_code, zero_code)
    positive = Greater (smallest_norm, zero_norm)
    finite = Less (largest_norm, endless)
    codes_good = And (below, not_negative)
    norms_good = And (positive, finite)
    values_good = And (codes_good, norms_good)
    code_shape = Shape (CODES)
    volumes = Gather (code_shape, first)
    norm_shape = Shape (IMAGE_NORM)
    lengths = Gather (norm_shape, first)
    one_each = Equal (volumes, lengths)
    good = And (values_good, one_each)
    norms = Unsqueeze (IMAGE_NORM, map_axes)
    demanded_shape = Where (good, sequence_shape, impossible_shape)
    sequences = Reshape <allowzero = 0> (CODES, demanded_shape)
    by_position = Transpose <perm = [2, 0, 1]> (sequences)
    tokens = Gather <axis = 0> (codebook, by_position)
    columns_shape = Concat <axis = 0> (positions, minus_one, width)
    listed = Reshape (tokens, columns_shape)
    shares = MatMul (listed, weights)
    split_shape = Concat <axis = 0> (positions, volumes, slabs, findings)
    split = Reshape (shares, split_shape)
    ordered = Transpose <perm = [1, 3, 2, 0]> (split)
    map_shape = Concat <axis = 0> (volumes, findings, slabs, plane)
    maps = Reshape (ordered, map_shape)
    RELEVANCE = Div (maps, norms)
}}
"""


def relevance_graph(
    weights: NDArray[np.float32],
    codebook: NDArray[np.float32],
    token_shape: tuple[int, int, int],
) -> onnx.ModelProto:
    """CODES (V, T, R, C), IMAGE_NORM (V, 1) -> RELEVANCE (V, F, T, R, C).

    weights: (R·C, F, W), `CTCLIP.relevance_weights`; codebook: (Z, W), stored rows.
    """
    slabs, rows, columns = token_shape
    positions, findings, width = weights.shape
    text = _GRAPH.format(
        ir_version=IR_VERSION, opset=OPSET,
        slabs=slabs, rows=rows, columns=columns, findings=findings,
    )  # fmt: skip
    model = parser.parse_model(text)

    def integers(*values: int) -> NDArray[np.int64]:
        return np.array(values, np.int64)

    constants = {
        "weights": np.ascontiguousarray(weights.transpose(0, 2, 1)),  # (N, W, F)
        "codebook": codebook,
        "code_count": np.int32(len(codebook)), "zero_code": np.int32(0),
        "zero_norm": np.float32(0), "endless": np.float32(np.inf),
        "first": integers(0), "minus_one": integers(-1), "map_axes": integers(2, 3, 4),
        "impossible_shape": integers(7_919, 7_919, 7_919),
        "sequence_shape": integers(0, slabs, positions), "positions": integers(positions),
        "width": integers(width), "slabs": integers(slabs), "findings": integers(findings),
        "plane": integers(rows, columns),
    }  # fmt: skip
    add_constants(model, **constants)
    name_node(model, "sequences", _REFUSAL)
    return model
