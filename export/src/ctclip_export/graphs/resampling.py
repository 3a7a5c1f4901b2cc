"""Two forms of the resampling inside the preprocessing graph, as ONNX text: the same values.

Each begins where the stored volume, its rescale, and for each axis `{a}_low`, `{a}_high` and
`{a}_weight` are known, and ends with `content` (z, x, y) float32: what is left after the crop, in
thousands of HU. Neither makes more of a tensor that grows with the input than a copy of it: a scan
of 1,617 slices or of a matrix of 1,024 is far larger than the model's grid.
"""

from __future__ import annotations


def _hu(name: str) -> str:
    return f"""
            {name}_f32 = Cast <to = 1> ({name}_stored)
            {name}_scaled = Mul ({name}_f32, slope)
            {name}_shifted = Add ({name}_scaled, intercept)
            {name}_hu = Clip ({name}_shifted, hu_min, hu_max)"""


# Rows (x) are resampled before columns (y): a tensor of H rows with the input's columns. Of few
# rows and many columns it would be far larger than the input; what the crop takes away at both
# sides is therefore cut off before. The 360 mm that stay are at most 7,200 columns, since spacings
# are above 0.05 mm.
_COLUMNS = """
    first_column = Gather (y_low, first_entry)
    last_column = Gather (y_high, last_entry)
    end_column = Add (last_column, one)
    y_low_column = Sub (y_low, first_column)
    y_high_column = Sub (y_high, first_column)"""

# One output slice after the other: a slice stays in a CPU's cache from one operation to the next.
# ONNX Runtime takes rows out of an array at the speed of memory but single columns one by one,
# which cost more than all the rest; so the slice is turned for its second axis, and turned back.
# The largest tensors are a slice of the input and (H, columns).
SLICE_BY_SLICE = f"""
    {_COLUMNS}
    x_weights = Unsqueeze (x_weight, one)
    y_weights = Unsqueeze (y_weight, one)
    content = Scan <num_scan_inputs = 3, body = slice
        (int64 low, int64 high, float weight) => (float[rows,columns] normalised)
        {{{{
            low_slice = Gather <axis = 0> (VOLUME, low)
            high_slice = Gather <axis = 0> (VOLUME, high)
            low_stored = Slice (low_slice, first_column, end_column, last_axis)
            high_stored = Slice (high_slice, first_column, end_column, last_axis)
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
            y_lower = Gather <axis = 0> (turned, y_low_column)
            y_higher = Gather <axis = 0> (turned, y_high_column)
            y_change = Sub (y_higher, y_lower)
            y_part = Mul (y_change, y_weights)
            resampled = Add (y_lower, y_part)

            scaled = Mul (resampled, per_hu)
            normalised = Transpose <perm = [1, 0]> (scaled)
        }}}}> (z_low, z_high, z_weight)
"""

# A GPU pays for the launch of each of the loop's 28 operations on each of 240 slices more than for
# the data in it. Here every operation is one launch over the whole grid. Lines along y are taken
# out of the stored volume for z and x at once. The largest tensors are the input, cut, and
# (D, H, columns).
WHOLE_ARRAYS = f"""
    {_COLUMNS}
    columns = Slice (VOLUME, first_column, end_column, last_axis)

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
    y_count = Sub (end_column, first_column)
    lines_shape = Concat <axis = 0> (any_count, y_count)
    lines = Reshape (columns, lines_shape)

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

            y_lower = Gather <axis = 2> (planes, y_low_column)
            y_higher = Gather <axis = 2> (planes, y_high_column)
            y_change = Sub (y_higher, y_lower)
            y_part = Mul (y_change, y_weight)
            resampled = Add (y_lower, y_part)
            content = Mul (resampled, per_hu)
"""
