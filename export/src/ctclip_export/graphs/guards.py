"""Encoders that refuse what they would otherwise answer with a guess.

Among voxels, NaN becomes a code (the ArgMax over NaN is an index, too), and an id outside of the
vocabulary becomes another word or whatever memory follows the table. As in the small graphs, a bad
input makes a Reshape fail, and runtimes report the node's name, which is what the user reads.

A guard is added to a finished graph and taken out again without a trace. TensorRT builds without
it: it would only warn, and shapes that depend on data prevent its fusions.
"""

# Imported where engines are built, without torch: not in ctclip_export.graphs, which needs it.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from ctclip_client.contract import ATTENTION_MASK, INPUT_IDS, VOXELS

_PREFIX = "guard_"
"""Of every tensor that a guard adds, and of no other in a graph."""

# Where the condition holds NonZero finds index 0, which is added to what the trunk reads first:
# nothing of the trunk runs before the verdict, and good inputs stay what they are. Otherwise it
# finds nothing, and nothing cannot be reshaped into one number. (Demanding an impossible shape of
# the input itself would not do: OpenVINO forgets its refusal when the same demand comes twice.)
_VERDICT = """
    guard_{name}_found = NonZero (guard_{name}_good)
    guard_{name}_zero = Reshape (guard_{name}_found, guard_one)
"""

# A length is NaN or infinite if one voxel is, whatever the others are; a maximum may skip NaN. The
# voxels themselves stay as they are: 220 MB, which an addition would copy.
_VOXELS = f"""
    guard_voxels_length = ReduceL2 <keepdims = 0> ({VOXELS.name})
    guard_voxels_good = Less (guard_voxels_length, guard_endless)
    {_VERDICT.format(name="voxels")}
    guard_voxels_shape = Add ({{shape}}, guard_voxels_zero)
"""
_VOXELS_REFUSAL = (
    f"{VOXELS.name}: expected finite numbers, from -1 to 1 as ctclip_preprocess makes them"
)

# Numbers are compared one by one, since there is no minimum of an empty row. A row of the mask is
# as long as one of ids if so many of its numbers are 0 or 1; no Abs, which OpenVINO drops.
_TEXT = f"""
    guard_ids_below = Less ({INPUT_IDS.name}, guard_none)
    guard_ids_above = GreaterOrEqual ({INPUT_IDS.name}, guard_vocabulary)
    guard_ids_outside = Or (guard_ids_below, guard_ids_above)
    guard_ids_faults = Cast <to = 7> (guard_ids_outside)
    guard_ids_count = ReduceSum <keepdims = 0> (guard_ids_faults)
    guard_ids_inside = Equal (guard_ids_count, guard_none)
    guard_ids_length = Shape <start = 1, end = 2> ({INPUT_IDS.name})
    guard_ids_some = Greater (guard_ids_length, guard_none)
    guard_ids_few = LessOrEqual (guard_ids_length, guard_positions)
    guard_ids_fit = And (guard_ids_some, guard_ids_few)
    guard_ids_good = And (guard_ids_inside, guard_ids_fit)
    {_VERDICT.format(name="ids")}

    guard_mask_hidden = Equal ({ATTENTION_MASK.name}, guard_none)
    guard_mask_shown = Equal ({ATTENTION_MASK.name}, guard_one)
    guard_mask_binary = Or (guard_mask_hidden, guard_mask_shown)
    guard_mask_ones = Cast <to = 7> (guard_mask_binary)
    guard_mask_length = ReduceSum <keepdims = 0> (guard_mask_ones, guard_one)
    guard_mask_as_long = Equal (guard_mask_length, guard_ids_length)
    guard_mask_kept = ReduceSum <keepdims = 0> ({ATTENTION_MASK.name}, guard_one)
    guard_mask_some = Greater (guard_mask_kept, guard_none)
    guard_mask_row_good = And (guard_mask_as_long, guard_mask_some)
    guard_mask_goods = Cast <to = 7> (guard_mask_row_good)
    guard_mask_count = ReduceSum <keepdims = 0> (guard_mask_goods)
    guard_mask_row_bad = Not (guard_mask_row_good)
    guard_mask_bads = Cast <to = 7> (guard_mask_row_bad)
    guard_mask_bad_count = ReduceSum <keepdims = 0> (guard_mask_bads)
    guard_mask_none_bad = Equal (guard_mask_bad_count, guard_none)
    guard_ids_rows = Shape <start = 0, end = 1> ({INPUT_IDS.name})
    guard_mask_as_many = Equal (guard_mask_count, guard_ids_rows)
    guard_mask_good = And (guard_mask_none_bad, guard_mask_as_many)
    {_VERDICT.format(name="mask")}

    guard_zeros = Add (guard_ids_zero, guard_mask_zero)
    guard_ids = Add ({INPUT_IDS.name}, guard_zeros)
"""
_IDS_REFUSAL = f"{INPUT_IDS.name}: expected rows of 1 to {{positions}} ids, each from 0 to {{last}}"
_MASK_REFUSAL = (
    f"{ATTENTION_MASK.name}: expected 0 and 1 in the shape of {INPUT_IDS.name}, with a 1 in every "
    "row"
)


def guard_vision(model: onnx.ModelProto) -> None:
    """Make a vision graph refuse VOXELS that are not finite, or so large that squares are not.

    Raises: RuntimeError if it has a guard, or the voxels do not go into a Reshape to a constant
    shape.
    """
    _require_none(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    readers = [node for node in _readers(model, VOXELS.name) if node.op_type != "Shape"]
    if [node.op_type for node in readers] != ["Reshape"] or readers[0].input[1] not in constants:
        raise RuntimeError(f"{VOXELS.name}: expected one Reshape to a constant shape to read them")
    shape = str(readers[0].input[1])
    readers[0].input[1] = "guard_voxels_shape"
    _add(
        model,
        _VOXELS.format(shape=shape),
        {"guard_endless": np.array([np.inf], np.float32)},
        {"guard_voxels_zero": _VOXELS_REFUSAL},
    )


def guard_text(model: onnx.ModelProto, vocabulary_size: int, positions: int) -> None:
    """Make a text graph refuse ids outside of the vocabulary, and malformed masks.

    vocabulary_size: rows of the table of words; positions: most ids of a text.
    Raises: RuntimeError if it has a guard.
    """
    _require_none(model)
    for node in _readers(model, INPUT_IDS.name):
        node.input[:] = ["guard_ids" if name == INPUT_IDS.name else name for name in node.input]
    _add(
        model,
        _TEXT,
        {
            "guard_none": np.array([0]),
            "guard_vocabulary": np.array([vocabulary_size]),
            "guard_positions": np.array([positions]),
        },
        {
            "guard_ids_zero": _IDS_REFUSAL.format(positions=positions, last=vocabulary_size - 1),
            "guard_mask_zero": _MASK_REFUSAL,
        },
    )


def remove_guard(model: onnx.ModelProto) -> None:
    """Undo `guard_vision` or `guard_text`, to the byte. A graph without a guard stays as it is."""
    graph = model.graph
    # What the trunk reads of a guard is a sum, and the first of its terms is what it read before.
    before = {node.output[0]: node.input[0] for node in graph.node if _is_guards(node.output[0])}
    trunk = [node for node in graph.node if node.output[0] not in before]
    for node in trunk:
        if any(map(_is_guards, node.input)):
            node.input[:] = [before.get(name, name) for name in node.input]
    _replace(graph.node, trunk)
    # They lie at the end: nothing else is touched, least of all 700 MB of weights.
    while graph.initializer and _is_guards(graph.initializer[-1].name):
        del graph.initializer[-1]


def _add(
    model: onnx.ModelProto,
    text: str,
    constants: Mapping[str, Any],
    refusals: Mapping[str, str],
) -> None:
    """Put a guard's nodes before all others. refusals: names of nodes by their outputs."""
    graph = model.graph
    guard = parser.parse_graph(f"guard () => () {{ {text} }}")
    for node in guard.node:
        node.name = refusals.get(node.output[0], node.output[0])
    _replace(graph.node, [*guard.node, *graph.node])
    graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in {"guard_one": np.array([1]), **constants}.items()
    )


def _require_none(model: onnx.ModelProto) -> None:
    if any(_is_guards(node.output[0]) for node in model.graph.node):
        raise RuntimeError(f"the graph has tensors named {_PREFIX}…: it has a guard already")


def _readers(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if name in node.input]


def _replace(field: Any, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del field[:]
    field.extend(kept)


def _is_guards(name: str) -> bool:
    return name.startswith(_PREFIX)
