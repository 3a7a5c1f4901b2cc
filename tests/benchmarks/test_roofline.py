"""The roofline: counts of real graphs against independent ones, limits against arithmetic."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch.utils.flop_counter import FlopCounterMode

from ctclip_bench.graphs.ceilings import measure_ceilings
from ctclip_bench.graphs.counts import Count, count_graph
from ctclip_bench.graphs.roofline import datasheet_rows, limit_of
from ctclip_client.errors import InvalidInput
from ctclip_export.checkpoint import Checkpoint

from ..conftest import Golden

TEXTS, LENGTH = 5, 9


@torch.no_grad()
def counted_by_torch(model: torch.nn.Module, *inputs: torch.Tensor) -> int:
    """Operations of PyTorch's products and convolutions, as PyTorch itself counts them."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops()


def graph(repository: Path, model: str) -> Path:
    return repository / f"ctclip_{model}" / "1" / "model.onnx"


def test_products_of_the_vision_graph(
    repository: Path, checkpoint: Checkpoint, golden: Golden
) -> None:
    config = checkpoint.model.config.vision
    shape = (1, 1, *config.volume_shape)
    count = count_graph(graph(repository, "vision"), {"VOXELS": shape})
    products = count.products["fp32"]
    assert count.unknown == ()
    # Torch's count has one product more: the projection's norm is one for both.
    assert products == counted_by_torch(checkpoint.model.vision, torch.zeros(shape))

    # And by the sizes alone (two operations for each multiplication with its addition).
    slabs, rows, columns = config.token_shape
    plane = rows * columns
    tokens, inner = slabs * plane, config.heads * config.head_width
    layers = config.spatial_layers + config.temporal_layers
    attended = config.spatial_layers * slabs * plane**2 + config.temporal_layers * plane * slabs**2
    search = 2 * tokens * config.width * config.codebook_size
    assert count.search == search
    assert products == (
        2 * tokens * config.patch_volume * config.width
        + layers * 2 * tokens * config.width * 4 * inner  # queries, keys, values, and out of them
        + layers * 2 * tokens * config.width * 3 * config.hidden
        + layers * 2 * tokens * config.width * 27  # depthwise 3 × 3 × 3
        + 2 * 2 * inner * attended
        + search
        + 2 * plane * config.width * config.embedding_size
    )
    weights = sum(each.numel() * 4 for each in checkpoint.model.vision.parameters())
    assert math.prod(shape) * 4 < count.bytes_least < math.prod(shape) * 4 + 2 * weights
    assert count.bytes_by_node > 2 * count.bytes_least


def test_products_of_the_text_graph(repository: Path, checkpoint: Checkpoint) -> None:
    ids = torch.ones(TEXTS, LENGTH, dtype=torch.int64)
    shapes = {"INPUT_IDS": ids.shape, "ATTENTION_MASK": ids.shape}
    count = count_graph(graph(repository, "text"), shapes)
    assert count.products["fp32"] == counted_by_torch(checkpoint.model.text, ids, ids)
    assert len(count.unknown) <= 1  # a slice of the positions, which only copies


def test_a_scan_counts_once_for_each_step(repository: Path, golden: Golden) -> None:
    depth, height, width = golden.geometry.volume_shape
    volume = (17, 90, 80)
    shapes = {"VOLUME": volume, "SPACING": (3,), "RESCALE": (2,)}
    target = golden.geometry.target_spacing_mm
    # As many voxels as the grid has: nothing is cropped, nothing padded.
    spacing = [t * n / v for t, n, v in zip(target, (depth, height, width), volume, strict=True)]
    values = {"SPACING": np.array(spacing) * (1 + 1e-9)}
    count = count_graph(graph(repository, "preprocess"), shapes, values)
    assert (count.products, count.unknown) == ({}, ())
    # Clipping and scaling the two source slices and mixing them: 2 · 3 + 3 operations a voxel of a
    # slice; along x 3, along y 3, and scaling 1.
    plane = volume[1] * volume[2]
    body = 9 * plane + 3 * height * volume[2] + 4 * height * width
    assert depth * body <= count.elementwise <= depth * body * 1.01 + 5000
    assert count.bytes_least == pytest.approx(
        2 * math.prod(volume) + 4 * math.prod(golden.geometry.volume_shape), rel=0.01
    )


def test_precisions_follow_the_operands(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    kind = onnx.TensorProto
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "scale"], ["a32"]),
        helper.make_node("DequantizeLinear", ["b", "scale"], ["b32"]),
        helper.make_node("MatMul", ["a32", "b32"], ["c"]),
        helper.make_node("MatMul", ["c", "d"], ["e"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.zeros((8, 16), np.int8), "b"),
        onnx.numpy_helper.from_array(np.zeros((16, 32), np.float32), "d"),
        onnx.numpy_helper.from_array(np.float32(1), "scale"),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes, "g", [info("a", kind.INT8, (4, 8))], [info("e", kind.FLOAT, (4, 32))], constants
        )
    )
    onnx.save(model, tmp_path / "g.onnx")
    count = count_graph(tmp_path / "g.onnx", {"a": (4, 8)})
    assert count.products == {"int8": 2 * 4 * 8 * 16, "fp32": 2 * 4 * 16 * 32}
    with pytest.raises(InvalidInput, match=r"no shape is given for its input a"):
        count_graph(tmp_path / "g.onnx", {"VOXELS": (1,)})


def test_limits_are_the_slower_of_two() -> None:
    count = Count({"fp32": 800e9}, search=100e9, bytes_least=1e9, bytes_by_node=50e9)
    limit = limit_of(count, {"fp32": 100e9, "bf16": 700e9}, 10e9)
    assert limit == {"limit_ms": 8000, "bound_by": "products", "limit_by_node_ms": 8000}
    twin = limit_of(count.typed("bf16"), {"fp32": 100e9, "bf16": 700e9}, 10e9)
    assert twin["limit_ms"] == pytest.approx(1000 + 1000)  # the code search stays in float32
    copies = limit_of(Count(elementwise=1e9, bytes_least=2e9), {"fp32": 100e9}, 10e9)
    assert (copies["limit_ms"], copies["bound_by"]) == (200, "copies")


def test_bounds_of_datasheets_say_what_they_are() -> None:
    count = Count({"fp32": 790e9}, search=116e9, bytes_least=1e9)
    rows = datasheet_rows("vision", "fp32", count, encoder=True)
    assert all(row.settings["device"].endswith("(bound, not measured)") for row in rows)
    by = {(row.settings["device"], row.settings["precision"]): row.figures for row in rows}
    a100 = "A100 SXM 40 GB datasheet (bound, not measured)"
    assert by[a100, "fp32"]["limit_ms"] == pytest.approx(790e9 / 19.5e12 * 1000)
    assert by[a100, "tf32"]["limit_ms"] == pytest.approx(790e9 / 156e12 * 1000)
    assert by[a100, "bf16"]["limit_ms"] == pytest.approx(674 / 312 + 116 / 19.5)


def test_ceilings_of_this_machine() -> None:
    found = measure_ceilings("cpu", small=True)
    assert found.products["fp32"] > 0
    assert found.copy > 0
    assert found.host_to_device == found.device_to_host == {}
