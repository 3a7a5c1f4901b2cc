"""Typed graphs: what is low, what stays float32, and that a trunk that breaks is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_export.checkpoint import Checkpoint, TextModel
from ctclip_export.graphs.versions import IR_VERSION
from ctclip_export.model import CTCLIP
from ctclip_export.parity.compare import ParityError
from ctclip_export.precision.typed_twin import DTYPES, trunk_parts, typed
from ctclip_export.repository.build import Export, export_repository

from ..conftest import Golden

LOW = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_islands_stay_float32(precision: str, exported_in: Callable[[str], Export]) -> None:
    """By the types that ONNX's own strict inference finds, not by the exporter's intention."""
    proto = onnx.load(exported_in(precision).repository / "ctclip_vision" / "1" / "model.onnx")
    assert proto.ir_version == IR_VERSION
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.value_info}
    types |= {v.name: v.type.tensor_type.elem_type for v in [*inferred.input, *inferred.output]}
    types |= {i.name: i.data_type for i in inferred.initializer}
    full, low = onnx.TensorProto.FLOAT, LOW[precision]

    def of(operator: str) -> list[int]:
        return [types[node.output[0]] for node in inferred.node if node.op_type == operator]

    assert set(of("LayerNormalization")) == {full}
    assert set(of("ReduceL2")) == {full}
    assert set(of("Softmax")) == {low}
    assert set(of("Gelu")) == {low}
    assert set(of("Conv")) == {low}
    products = of("MatMul")
    assert products.count(full) == 1  # the code search
    assert products.count(low) == len(products) - 1
    (search,) = (n for n in inferred.node if n.op_type == "ArgMax")
    assert types[search.input[0]] == full
    (projection,) = (n for n in inferred.node if n.op_type == "Gemm")
    assert types[projection.output[0]] == full


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_text_keeps_its_projection_float32(
    precision: str, exported_in: Callable[[str], Export], checkpoint: Checkpoint
) -> None:
    proto = onnx.load(exported_in(precision).repository / "ctclip_text" / "1" / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    low = [i.name for i in proto.graph.initializer if i.data_type == LOW[precision]]
    assert not any("projection" in name or "norm" in name for name in low)
    assert len(low) >= 6 * checkpoint.model.config.text.layers


def test_typing_leaves_the_reference_alone(checkpoint: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    twin = typed(checkpoint.model.vision, "fp16")
    assert twin.patch_projection.weight.dtype == torch.float16
    for name, tensor in checkpoint.model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


def test_parts_cover_the_trunk_in_order(checkpoint: Checkpoint) -> None:
    vision = checkpoint.model.vision
    parts = trunk_parts(vision)
    assert parts == [
        "patch_projection",
        "spatial.blocks.0", "spatial.blocks.1", "temporal.blocks.0", "temporal.blocks.1",
    ]  # fmt: skip
    whole, by_parts = typed(vision, "bf16"), typed(vision, "bf16", only=parts)
    for name, tensor in whole.state_dict().items():
        assert tensor.dtype == by_parts.state_dict()[name].dtype, name
    first = typed(vision, "bf16", only=parts[:1])
    low = [n for n, t in first.state_dict().items() if t.dtype == DTYPES["bf16"]]
    assert low == ["patch_projection.weight", "patch_projection.bias"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_padding_changes_nothing_in_low_precision_either(
    precision: str, golden: Golden, checkpoint: Checkpoint
) -> None:
    twin = typed(checkpoint.model.text, precision)
    ids = torch.from_numpy(golden.expected["prompt_input_ids"]).long()
    longest = int((ids != 0).sum(dim=1).max())
    with torch.no_grad():
        short = twin(ids[:, :longest], (ids[:, :longest] != 0).long())
        long = twin(ids, (ids != 0).long())
        nothing = twin(ids[:1], torch.zeros_like(ids[:1]))
    # Sums of another length may round otherwise; a padding that leaked would show a thousandfold.
    torch.testing.assert_close(short, long, rtol=0, atol=2e-2 if precision == "bf16" else 2e-3)
    assert torch.isfinite(nothing).all()


def _overflow(model: CTCLIP) -> None:
    """The same function in float32, but hidden values beyond float16's 65,504."""
    block = model.vision.temporal.blocks[0].feed_forward
    values = block.to_hidden.weight[: block.to_out.in_features]
    factor = 6e4 / float(values.abs().max())  # the weights themselves still fit
    values *= factor
    block.to_out.weight /= factor


def _too_large(model: CTCLIP) -> None:
    model.vision.spatial.blocks[1].attention.to_q.weight[0, 0] = 1e5


def _deep_in_text(model: CTCLIP) -> None:
    layer = model.text.layers[1]
    factor = 6e4 / float(layer.value.weight.abs().max())
    layer.value.weight *= factor
    layer.value.bias *= 0
    layer.attention_out.weight /= factor


def _outlier(model: CTCLIP) -> None:
    """The same function in float32, but one hidden channel that leaves int8 no range for others."""
    block = model.vision.temporal.blocks[0].feed_forward
    block.to_hidden.weight[0] *= 1e5
    block.to_out.weight[:, 0] /= 1e5


@pytest.mark.parametrize(
    ("plant", "precision", "message"),
    [
        (_overflow, "fp16", r"vision in fp16: .*First part beyond: temporal\.blocks\.0\."),
        pytest.param(
            _too_large, "fp16", r"vision: spatial\.blocks\.1\.attention\.to_q: weights beyond",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            _deep_in_text, "fp16", r"ctclip_text in fp16: .*First part beyond: layers\.1\.",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            _outlier, "int8", r"vision in int8: .*First part beyond: temporal\.blocks\.0\.",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_the_first_part_beyond_is_named_and_nothing_is_placed(
    plant: Callable[[CTCLIP], None],
    precision: str,
    message: str,
    golden: Golden,
    checkpoint: Checkpoint,
    text_model: TextModel,
    phantoms: Path,
    tmp_path: Path,
) -> None:
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        plant(model)
    planted = replace(checkpoint, model=model)
    with pytest.raises(ParityError, match=message) as caught:
        export_repository(
            planted, text_model, golden.geometry, PUBLISHED_FINDINGS, tmp_path / "out",
            precision=precision, calibration_folder=phantoms,
        )  # fmt: skip
    assert "higher precision" in caught.value.remedy or "bf16" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_bf16_is_exported_and_says_what_was_not_run(exported_in: Callable[[str], Export]) -> None:
    export = exported_in("bf16")
    assert export.release["precision"] == "bf16"
    compared = [found.quantity for found in export.agreements if found.model == "ctclip_vision"]
    assert any(quantity.startswith("bf16 PyTorch") for quantity in compared)
    assert not any("ONNX" in quantity for quantity in compared)
    assert all(np.isfinite(found.measured) for found in export.agreements)
