"""Both encoders with their guards, traced from the reference model."""

from __future__ import annotations

import onnx
import torch
from torch import nn

from ctclip_client.contract import TEXT_ENCODER, VISION, Model
from ctclip_export.graphs.guards import GuardedText, GuardedVision
from ctclip_export.graphs.quiet import quiet
from ctclip_export.graphs.versions import IR_VERSION, OPSETS
from ctclip_export.model import CTViT, TextEncoder


def trace_vision(model: CTViT, precision: str = "fp32") -> onnx.ModelProto:
    """VOXELS (B, 1, D, H, W) -> IMAGE_EMBEDDING (B, E), IMAGE_NORM (B, 1), CODES (B, T, R, C)."""
    # Two volumes, since torch specialises an axis of length 1.
    volume = torch.zeros(2, 1, *model.config.volume_shape)
    return _trace(GuardedVision(model), (volume,), VISION, ({0: "batch"},), OPSETS[precision])


def trace_text(model: TextEncoder, precision: str = "fp32") -> onnx.ModelProto:
    """INPUT_IDS, ATTENTION_MASK (N, L) -> TEXT_EMBEDDING (N, E)."""
    ids = torch.ones(2, 7, dtype=torch.int64)
    axes = {0: "batch", 1: "length"}
    guarded = GuardedText(model)
    return _trace(guarded, (ids, ids.clone()), TEXT_ENCODER, (axes, axes), OPSETS[precision])


def _trace(
    model: nn.Module,
    example: tuple[torch.Tensor, ...],
    spec: Model,
    dynamic_axes: tuple[dict[int, str], ...],
    opset: int,
) -> onnx.ModelProto:
    with quiet():
        program = torch.onnx.export(
            model,
            example,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=tuple(
                dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in dynamic_axes
            ),
            opset_version=opset,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing although dynamo=True")
    proto: onnx.ModelProto = program.model_proto
    proto.ir_version = IR_VERSION
    _rename_axes(proto, spec, dynamic_axes)
    _forget_origin(proto)
    return proto


def _rename_axes(
    proto: onnx.ModelProto, spec: Model, dynamic_axes: tuple[dict[int, str], ...]
) -> None:
    """Give the free axes the names above instead of torch's s77."""
    for value, axes in zip(proto.graph.input, dynamic_axes, strict=True):
        for axis, name in axes.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    for value, tensor in zip(proto.graph.output, spec.outputs, strict=True):
        if value.name != tensor.name:
            raise RuntimeError(f"{spec.name}: traced output {value.name}, expected {tensor.name}")
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    # Shapes of intermediate values still have torch's symbols; shape inference makes them anew.
    del proto.graph.value_info[:]


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Drop stack traces of the machine that exported: they name its folders, and weigh much."""
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del value.metadata_props[:]
        value.doc_string = ""
