"""Two forms of the resampling inside the preprocessing graph, as ONNX text: the same values.

Each begins where the stored volume, its rescale, and for each axis `{a}_low`, `{a}_high` and
`{a}_weight` are known, and ends with `content` (z, x, y) float32: what is left after the crop, in
thousands of HU. Neither makes a tensor that grows with the number of slices or of rows (x) of the
input: a scan of 1,617 slices or of a matrix of 1,024 is far larger than the model's grid.
"""

from __future__ import annotations


def _hu(name: str) -> str:
    return f"""
            {name}_f32 = Cast <to = 1> ({name}_stored)
            {name}_scaled = Mul ({name}_f32, slope)
            {name}_shifted = Add ({name}_scaled, intercept)
            {name}_hu = Clip ({name}_shifted, hu_min, hu_max)"""


# One output slice after the other: a slice stays in a CPU's cache from one operation to the next.
# ONNX Runtime takes rows out of an array at the speed of memory but single columns one by one,
# which cost more than all the rest; so the slice is turned for its second axis, and turned back.
SLICE_BY_SLICE = f"""
    x_weights = Unsqueeze (x_weight, one)
    y_weights = Unsqueeze (y_weight, one)
    content = Scan <num_scan_inputs = 3, body = slice
        (int64 low, int64 high, float weight) => (float[rows,columns] normalised)
        {{{{
            low_stored = Gather <axis = 0> (VOLUME, low)
            high_stored = Gather <axis = 0> (VOLUME, high)
            {_hu("low")}
            {_hu("high")}
            z_change = Sub (high_hu, low_hu)
            z_part = Mul (z_change, weight)
            plane = Add (low_hu, z_part)

            x_lower = Gather <axis = 0> (plane, x_low)
            x_higher = Gather <axis = 0> (plane, x_high)
            x_change = Sub (x_higher, x_lower)
            x_part = Mul (x_change, x_weights)
            lines = Add (x_lower, x_part)

            turned = Transpose <perm = [1, 0]> (lines)
            y_lower = Gather <axis = 0> (turned, y_low)
            y_higher = Gather <axis = 0> (turned, y_high)
            y_change = Sub (y_higher, y_lower)
            y_part = Mul (y_change, y_weights)
            resampled = Add (y_lower, y_part)

            scaled = Mul (resampled, per_hu)
            normalised = Transpose <perm = [1, 0]> (scaled)
        }}}}> (z_low, z_high, z_weight)
"""

# A GPU pays for the launch of each of the loop's 26 operations on each of 240 slices more than for
# the data in it. Here every operation is one launch over the whole grid. Lines along y are taken
# out of the stored volume for z and x at once: the largest tensor is (D, H, y of the input).
WHOLE_ARRAYS = f"""
    x_count = Gather (counts, one)
    z_low_start = Mul (z_low, x_count)
    z_high_start = Mul (z_high, x_count)
    z_low_starts = Unsqueeze (z_low_start, one)
    z_high_starts = Unsqueeze (z_high_start, one)
    at_low_low = Add (z_low_starts, x_low)
    at_low_high = Add (z_low_starts, x_high)
    at_high_low = Add (z_high_starts, x_low)
    at_high_high = Add (z_high_starts, x_high)
    x_weights = Unsqueeze (x_weight, one)
    z_weights = Unsqueeze (z_weight, plane_axes)
    y_counts = Gather (counts, last_axes)
    lines_shape = Concat <axis = 0> (any_count, y_counts)
    lines = Reshape (VOLUME, lines_shape)

            low_low_stored = Gather <axis = 0> (lines, at_low_low)
            {_hu("low_low")}
            low_high_stored = Gather <axis = 0> (lines, at_low_high)
            {_hu("low_high")}
            low_change = Sub (low_high_hu, low_low_hu)
            low_part = Mul (low_change, x_weights)
            low_lines = Add (low_low_hu, low_part)
            high_low_stored = Gather <axis = 0> (lines, at_high_low)
            {_hu("high_low")}
            high_high_stored = Gather <axis = 0> (lines, at_high_high)
            {_hu("high_high")}
            high_change = Sub (high_high_hu, high_low_hu)
            high_part = Mul (high_change, x_weights)
            high_lines = Add (high_low_hu, high_part)
            z_change = Sub (high_lines, low_lines)
            z_part = Mul (z_change, z_weights)
            planes = Add (low_lines, z_part)

            y_lower = Gather <axis = 2> (planes, y_low)
            y_higher = Gather <axis = 2> (planes, y_high)
            y_change = Sub (y_higher, y_lower)
            y_part = Mul (y_change, y_weight)
            resampled = Add (y_lower, y_part)
            content = Mul (resampled, per_hu)
"""
