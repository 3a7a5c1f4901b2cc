"""From stored voxels to the model's volume, as an ONNX graph.

The rules are upstream's `data_inference_nii.py`: HU = slope · stored + intercept, clipped to
[−1000, 1000]; trilinear resampling to the target spacing with half-pixel centres; division by 1000;
centre-crop and centre-pad with −1.

Only the voxels that survive the crop are computed, one output slice after the other, so that the
working memory is a few slices whatever the input's size and spacing. Sizes and coordinates are
float64: upstream truncates the new size, and in float32 the truncation falls the other way for
common spacings.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser

from ctclip_client.contract import SPACING_MM_RANGE, Geometry
from ctclip_export.graphs.constants import add_constants, name_node
from ctclip_export.graphs.versions import IR_VERSION, OPSET

AXES = ("z", "x", "y")

# Where one axis of the output comes from. `{a}_low`, `{a}_high`: the two source indices of each
# output index; `{a}_weight`: how much of the higher one; `{a}_inside`: not padding.
_AXIS = """
    {a}_size = Gather (sizes, {a}_axis)
    {a}_offset = Gather (offsets, {a}_axis)
    {a}_step = Gather (steps, {a}_axis)
    {a}_last = Gather (lasts, {a}_axis)

    {a}_range = Range (zero, {a}_grid, one)
    {a}_index = Add ({a}_range, {a}_offset)
    {a}_not_before = GreaterOrEqual ({a}_index, zero)
    {a}_not_after = Less ({a}_index, {a}_size)
    {a}_inside = And ({a}_not_before, {a}_not_after)

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

    counts = Shape (VOLUME)
    counts_f64 = Cast <to = 11> (counts)
    ratios = Div (spacing, target_mm)
    sizes_exact = Mul (counts_f64, ratios)
    sizes_unchecked = Cast <to = 7> (sizes_exact)
    smallest = ReduceMin <keepdims = 1> (sizes_unchecked)
    empty = Less (smallest, one)
    demanded_shape = Where (empty, impossible_shape, axes_shape)
    sizes = Reshape (sizes_unchecked, demanded_shape)

    differences = Sub (sizes, grid)
    surplus = Max (differences, zero)
    crops = Div (surplus, two)
    reversed = Sub (grid, sizes)
    shortage = Max (reversed, zero)
    pads = Div (shortage, two)
    offsets = Sub (crops, pads)
    sizes_f64 = Cast <to = 11> (sizes)
    steps = Div (counts_f64, sizes_f64)
    lasts = Sub (counts, one)
    slope = Gather (rescale, zero)
    intercept = Gather (rescale, one)
    {axes}
    x_weight_column = Unsqueeze (x_weight, one)
    x_inside_column = Unsqueeze (x_inside, one)
    plane_inside = And (x_inside_column, y_inside)
    slices = Scan <num_scan_inputs = 4, body = slice
        (int64 low, int64 high, float weight, bool inside) => (float[{height},{width}] padded)
        {{
            low_stored = Gather <axis = 0> (VOLUME, low)
            low_f32 = Cast <to = 1> (low_stored)
            low_scaled = Mul (low_f32, slope)
            low_hu = Add (low_scaled, intercept)
            low_clipped = Clip (low_hu, hu_min, hu_max)
            high_stored = Gather <axis = 0> (VOLUME, high)
            high_f32 = Cast <to = 1> (high_stored)
            high_scaled = Mul (high_f32, slope)
            high_hu = Add (high_scaled, intercept)
            high_clipped = Clip (high_hu, hu_min, hu_max)
            z_change = Sub (high_clipped, low_clipped)
            z_part = Mul (z_change, weight)
            plane = Add (low_clipped, z_part)

            rows_low = Gather <axis = 0> (plane, x_low)
            rows_high = Gather <axis = 0> (plane, x_high)
            x_change = Sub (rows_high, rows_low)
            x_part = Mul (x_change, x_weight_column)
            rows = Add (rows_low, x_part)

            columns_low = Gather <axis = 1> (rows, y_low)
            columns_high = Gather <axis = 1> (rows, y_high)
            y_change = Sub (columns_high, columns_low)
            y_part = Mul (y_change, y_weight)
            resampled = Add (columns_low, y_part)

            normalised = Mul (resampled, per_hu)
            visible = And (plane_inside, inside)
            padded = Where (visible, normalised, padding)
        }}> (z_low, z_high, z_weight, z_inside)
    VOXELS = Unsqueeze (slices, outer_axes)
}}
"""


def preprocess_graph(geometry: Geometry) -> onnx.ModelProto:
    """VOLUME int16 (z, x, y), SPACING mm, RESCALE -> VOXELS (1, 1, D, H, W) float32 in [−1, 1].

    Fails on a spacing or rescale that `ctclip_check` would refuse, and on a volume with an empty
    axis.
    """
    depth, height, width = geometry.volume_shape
    text = _GRAPH.format(
        ir_version=IR_VERSION, opset=OPSET, depth=depth, height=height, width=width,
        axes="".join(_AXIS.format(a=a) for a in AXES),
    )  # fmt: skip
    model = parser.parse_model(text)
    constants = {
        "target_mm": np.array(geometry.target_spacing_mm, np.float64),
        "zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "three": np.int64(3),
        "finest_mm": np.float64(SPACING_MM_RANGE[0]),
        "coarsest_mm": np.float64(SPACING_MM_RANGE[1]),
        "endless": np.float32(np.inf), "pair_shape": np.array([2], np.int64),
        # Of slope and intercept: any intercept will do.
        "smallest_entries": np.array([0, -1], np.float32),
        "zero_f64": np.float64(0.0), "half": np.float64(0.5),
        "hu_min": np.float32(-1000), "hu_max": np.float32(1000), "per_hu": np.float32(0.001),
        "axes_shape": np.array([3], np.int64), "impossible_shape": np.array([4], np.int64),
        "grid": np.array(geometry.volume_shape, np.int64),
        "padding": np.float32(-1), "outer_axes": np.array([0, 1], np.int64),
        **{f"{a}_axis": np.int64(i) for i, a in enumerate(AXES)},
        **{f"{a}_grid": np.int64(n) for a, n in zip(AXES, geometry.volume_shape, strict=True)},
    }  # fmt: skip
    add_constants(model, **constants)
    name_node(model, "sizes", _VOLUME_REFUSAL)
    name_node(model, "spacing", _SPACING_REFUSAL)
    name_node(model, "rescale", _RESCALE_REFUSAL)
    return model
