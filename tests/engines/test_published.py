"""The published geometry, parsed and compiled for SM80: random weights of the real sizes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from ctclip_client.contract import TEXT_ENCODER, VISION, Model
from ctclip_export.engines.compiler import Job
from ctclip_export.engines.graph_types import check_typed_graph
from ctclip_export.engines.layers import LayerReport, read_layers
from ctclip_export.engines.process import compile_in_process
from ctclip_export.engines.profile import profile_of
from ctclip_export.engines.target import RTX
from ctclip_export.graphs.encoders import trace_text, trace_vision
from ctclip_export.model import CTViT, ModelConfig, TextEncoder
from ctclip_export.precision.typed_twin import typed

pytestmark = pytest.mark.slow
CONFIG = ModelConfig()
PRECISIONS = ["fp32", "fp16", "bf16"]
LOW = {"fp16": "float16", "bf16": "bfloat16"}


def compiled(proto: onnx.ModelProto, model: Model, precision: str, folder: Path) -> LayerReport:
    graph = folder / model.name / "1" / "model.onnx"
    graph.parent.mkdir(parents=True)
    onnx.save(proto, graph)
    check_typed_graph(graph, precision)
    job = Job(
        RTX.name, model.name, str(graph), str(folder / RTX.plan), "8.0", profile_of(model, graph)
    )
    report = read_layers(compile_in_process(job).log, graph)
    assert report is not None
    return report


@pytest.mark.parametrize("precision", PRECISIONS)
def test_vision(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CTViT(CONFIG.vision).eval().requires_grad_(False)
    model.fold_constants()
    proto = trace_vision(typed(model, precision), precision)
    report = compiled(proto, VISION, precision, tmp_path)
    blocks = CONFIG.vision.spatial_layers + CONFIG.vision.temporal_layers
    assert len(report.attention) == blocks
    # The library has no float32 kernel that fuses.
    assert report.fused == (0 if precision == "fp32" else blocks)
    if precision in LOW:
        # The code search, and the projection into the joint space.
        assert len(report.products["float32"]) == 2
        assert set(report.products) == {"float32", LOW[precision]}
    # Four volumes at once, beside the weights: an A100 of 40 GB has room for both encoders.
    assert 0 < report.activation_bytes < 5 * 2**30


@pytest.mark.parametrize("precision", PRECISIONS)
def test_text(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TextEncoder(CONFIG.text, CONFIG.vision.embedding_size).eval().requires_grad_(False)
    proto = trace_text(typed(model, precision), precision)
    report = compiled(proto, TEXT_ENCODER, precision, tmp_path)
    assert len(report.attention) == CONFIG.text.layers
    assert report.fused == (0 if precision == "fp32" else CONFIG.text.layers)
    if precision in LOW:
        assert len(report.products["float32"]) == 1
    assert 0 < report.activation_bytes < 5 * 2**30
