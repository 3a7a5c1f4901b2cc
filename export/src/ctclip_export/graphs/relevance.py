"""Relevance maps as an ONNX graph: every token's share of each finding's logit difference."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import parser

from ctclip_export.graphs.constants import add_constants, name_node
from ctclip_export.graphs.versions import IR_VERSION, OPSET

# Indices out of range are refused here, on shapes: a GPU's Gather would read on silently.
_CODES_REFUSAL = (
    "CODES: every code must lie inside the codebook, from 0 to {last}, of at least one volume"
)
_NORMS_REFUSAL = "IMAGE_NORM: expected one finite length above 0 for each volume"
_SMALLEST_NORM = 1e-12
"""Below it the vision model's own normalisation gives up (eps of its L2 norm)."""

_GRAPH = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
ctclip_relevance (int32[V,{slabs},{rows},{columns}] CODES, float[lengths,1] IMAGE_NORM)
    => (float[V,{findings},{slabs},{rows},{columns}] RELEVANCE)
{{
    largest_code = ReduceMax <keepdims = 0> (CODES)
    smallest_code = ReduceMin <keepdims = 0> (CODES)
    below = Less (largest_code, code_count)
    not_negative = GreaterOrEqual (smallest_code, zero_code)
    inside = And (below, not_negative)
    code_shape = Shape (CODES)
    volumes = Gather (code_shape, first)
    some = Greater (volumes, zero)
    codes_good = And (inside, some)
    sequences_demanded = Where (codes_good, sequence_shape, impossible_sequences)
    sequences = Reshape <allowzero = 0> (CODES, sequences_demanded)
    positive = Greater (IMAGE_NORM, smallest_norm)
    finite = Less (IMAGE_NORM, endless)
    norm_good = And (positive, finite)
    norm_goodness = Cast <to = 7> (norm_good)
    good_norms = ReduceSum <keepdims = 0> (norm_goodness)
    norm_count = Size (IMAGE_NORM)
    all_good = Equal (good_norms, norm_count)
    one_each = Equal (norm_count, volumes)
    norms_good = And (all_good, one_each)
    norms_demanded = Where (norms_good, norms_shape, impossible_norms)
    norms = Reshape <allowzero = 0> (IMAGE_NORM, norms_demanded)
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
        "smallest_norm": np.float32(_SMALLEST_NORM), "endless": np.float32(np.inf),
        "first": integers(0), "minus_one": integers(-1), "zero": integers(0),
        "impossible_sequences": integers(7_919, 7_919, 7_919),
        "norms_shape": integers(0, 1, 1, 1, 1),
        "impossible_norms": integers(7_919, 7_919, 7_919, 7_919, 7_919),
        "sequence_shape": integers(0, slabs, positions), "positions": integers(positions),
        "width": integers(width), "slabs": integers(slabs), "findings": integers(findings),
        "plane": integers(rows, columns),
    }  # fmt: skip
    add_constants(model, **constants)
    name_node(model, "sequences", _CODES_REFUSAL.format(last=len(codebook) - 1))
    name_node(model, "norms", _NORMS_REFUSAL)
    return model
