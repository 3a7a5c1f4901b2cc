"""From stored voxels to the model's volume, as an ONNX graph.

The rules are upstream's `data_inference_nii.py`: HU = slope · stored + intercept, clipped to
[−1000, 1000]; trilinear resampling to the target spacing with half-pixel centres; division by 1000;
centre-crop and centre-pad with −1.

Only the voxels that survive the crop are computed (the content), and the padding is put around
them at the end. How, is in `resampling`: a form for CPUs whose working memory is a few slices
whatever the input's size and spacing, and one for GPUs. Sizes and coordinates are
float64: upstream truncates the new size, and in float32 the truncation falls the other way for
common spacings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import parser

from ctclip_client.contract import SPACING_MM_RANGE, Geometry
from ctclip_export.graphs.constants import add_constants, name_node
from ctclip_export.graphs.resampling import SLICE_BY_SLICE, WHOLE_ARRAYS
from ctclip_export.graphs.versions import IR_VERSION, OPSET

AXES = ("z", "x", "y")

# Where one axis of the content comes from. `{a}_low`, `{a}_high`: the two source indices of each
# index of the content; `{a}_weight`: how much of the higher one.
_AXIS = """
    {a}_first = Gather (firsts, {a}_axis)
    {a}_end = Gather (ends, {a}_axis)
    {a}_step = Gather (steps, {a}_axis)
    {a}_last = Gather (lasts, {a}_axis)

    {a}_index = Range ({a}_first, {a}_end, one)
    {a}_index_f64 = Cast <to = 11> ({a}_index)
    {a}_centre = Add ({a}_index_f64, half)
    {a}_stretched = Mul ({a}_centre, {a}_step)
    {a}_shifted = Sub ({a}_stretched, half)
    {a}_last_f64 = Cast <to = 11> ({a}_last)
    {a}_not_negative = Max ({a}_shifted, zero_f64)
    {a}_coordinate = Min ({a}_not_negative, {a}_last_f64)
    {a}_low_f64 = Floor ({a}_coordinate)
    {a}_weight_f64 = Sub ({a}_coordinate, {a}_low_f64)
    {a}_weight = Cast <to = 1> ({a}_weight_f64)
    {a}_low = Cast <to = 7> ({a}_low_f64)
    {a}_above = Add ({a}_low, one)
    {a}_high = Min ({a}_above, {a}_last)
"""

# A volume with an empty axis, or one so thin that it resamples to nothing, has no picture to show.
# The guard asks for an impossible shape then; a runtime reports the node's name, which is what the
# user reads. Shapes are checked on the host by every provider; indices out of range are not.
_VOLUME_REFUSAL = (
    "VOLUME: every axis needs at least 1 voxel after resampling to the model's spacing; "
    "got an empty or too thin axis"
)

# ctclip_check has seen both in an ensemble, and says more. Asked directly, the graph has to refuse
# them itself: NaN would become voxels, and an absurd spacing the fault of the volume.
_SPACING_REFUSAL = (
    f"SPACING: expected three finite numbers between {SPACING_MM_RANGE[0]} and "
    f"{SPACING_MM_RANGE[1]} mm"
)
_RESCALE_REFUSAL = "RESCALE: expected a finite slope other than 0 and a finite intercept"

_GRAPH = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
ctclip_preprocess (int16[z,x,y] VOLUME, double[3] SPACING, float[2] RESCALE)
    => (float[1,1,{depth},{height},{width}] VOXELS)
{{
    not_too_fine = Greater (SPACING, finest_mm)
    not_too_coarse = Less (SPACING, coarsest_mm)
    edge_good = And (not_too_fine, not_too_coarse)
    edge_goodness = Cast <to = 7> (edge_good)
    good_edges = ReduceSum <keepdims = 0> (edge_goodness)
    spacing_good = Equal (good_edges, three)
    spacing_shape = Where (spacing_good, axes_shape, impossible_shape)
    spacing = Reshape (SPACING, spacing_shape)

    magnitudes = Abs (RESCALE)
    entry_finite = Less (magnitudes, endless)
    entry_large = Greater (magnitudes, smallest_entries)
    entry_good = And (entry_finite, entry_large)
    entry_goodness = Cast <to = 7> (entry_good)
    good_entries = ReduceSum <keepdims = 0> (entry_goodness)
    rescale_good = Equal (good_entries, two)
    rescale_shape = Where (rescale_good, pair_shape, impossible_shape)
    rescale = Reshape (RESCALE, rescale_shape)

    counts_unchecked = Shape (VOLUME)
    counts_f64 = Cast <to = 11> (counts_unchecked)
    ratios = Div (spacing, target_mm)
    sizes_exact = Mul (counts_f64, ratios)
    sizes_unchecked = Cast <to = 7> (sizes_exact)
    smallest = ReduceMin <keepdims = 1> (sizes_unchecked)
    empty = Less (smallest, one)
    unchecked = Concat <axis = 0> (counts_unchecked, sizes_unchecked)
    demanded_shape = Where (empty, impossible_shape, both_shape)
    checked = Reshape (unchecked, demanded_shape)
    counts = Gather (checked, zero)
    sizes = Gather (checked, one)

    contents = Min (sizes, grid)
    surplus = Sub (sizes, contents)
    firsts = Div (surplus, two)
    ends = Add (firsts, contents)
    shortage = Sub (grid, contents)
    pads_before = Div (shortage, two)
    pads_after = Sub (shortage, pads_before)
    pads = Concat <axis = 0> (no_pads, pads_before, no_pads, pads_after)
    sizes_f64 = Cast <to = 11> (sizes)
    steps = Div (counts_f64, sizes_f64)
    lasts = Sub (counts, one)
    slope = Gather (rescale, zero)
    intercept = Gather (rescale, one)
    {axes}
    {resampling}
    volume = Unsqueeze (content, outer_axes)
    VOXELS = Pad (volume, pads, padding)
}}
"""


def preprocess_graph(geometry: Geometry) -> onnx.ModelProto:
    """VOLUME int16 (z, x, y), SPACING mm, RESCALE -> VOXELS (1, 1, D, H, W) float32 in [−1, 1].

    Fails on a spacing or rescale that `ctclip_check` would refuse, and on a volume with an empty
    axis.
    """
    return _graph(geometry, SLICE_BY_SLICE)


def preprocess_gpu_graph(geometry: Geometry) -> onnx.ModelProto:
    """The same for GPUs: 153 operations in all, where the other has 28 for each slice."""
    return _graph(
        geometry, WHOLE_ARRAYS,
        plane_axes=np.array([1, 2], np.int64), any_count=np.array([-1], np.int64),
    )  # fmt: skip


def _graph(geometry: Geometry, resampling: str, **constants: Any) -> onnx.ModelProto:
    depth, height, width = geometry.volume_shape
    text = _GRAPH.format(
        ir_version=IR_VERSION, opset=OPSET, depth=depth, height=height, width=width,
        axes="".join(_AXIS.format(a=a) for a in AXES), resampling=resampling.format(),
    )  # fmt: skip
    model = parser.parse_model(text)
    constants |= {
        "target_mm": np.array(geometry.target_spacing_mm, np.float64),
        "zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "three": np.int64(3),
        "finest_mm": np.float64(SPACING_MM_RANGE[0]),
        "coarsest_mm": np.float64(SPACING_MM_RANGE[1]),
        "endless": np.float32(np.inf), "pair_shape": np.array([2], np.int64),
        # Of slope and intercept: any intercept will do.
        "smallest_entries": np.array([0, -1], np.float32),
        "first_entry": np.array([0], np.int64), "last_entry": np.array([-1], np.int64),
        "last_axis": np.array([-1], np.int64),
        "zero_f64": np.float64(0.0), "half": np.float64(0.5),
        "hu_min": np.float32(-1000), "hu_max": np.float32(1000), "per_hu": np.float32(0.001),
        "axes_shape": np.array([3], np.int64), "both_shape": np.array([2, 3], np.int64),
        "impossible_shape": np.array([4], np.int64),
        "grid": np.array(geometry.volume_shape, np.int64),
        "padding": np.float32(-1), "outer_axes": np.array([0, 1], np.int64),
        "no_pads": np.array([0, 0], np.int64),
        **{f"{a}_axis": np.int64(i) for i, a in enumerate(AXES)},
    }  # fmt: skip
    add_constants(model, **constants)
    name_node(model, "checked", _VOLUME_REFUSAL)
    name_node(model, "spacing", _SPACING_REFUSAL)
    name_node(model, "rescale", _RESCALE_REFUSAL)
    return model
