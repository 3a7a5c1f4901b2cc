"""Make a release's ONNX graphs: each function writes files into a staging folder, checks nothing
but that they are valid ONNX, and says where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ctclip_client.contract import (
    CLASSFINE,
    FINDINGS,
    GPU_GRAPH,
    PREPROCESS,
    RELEVANCE,
    SCORE,
    TEXT_ENCODER,
    VISION,
    Model,
)
from ctclip_client.system.progress import Stages
from ctclip_export.graphs.encoders import trace_text, trace_vision
from ctclip_export.graphs.preprocess import preprocess_gpu_graph, preprocess_graph
from ctclip_export.graphs.relevance import relevance_graph
from ctclip_export.graphs.score import classfine_graph, findings_graph, score_graph
from ctclip_export.model import CTViT, TextEncoder
from ctclip_export.parity.check_low_precision import typed_twin
from ctclip_export.precision.calibration import Calibration, Voxels
from ctclip_export.precision.choices import precision_of
from ctclip_export.precision.int8 import Quantiser
from ctclip_export.repository.pbtxt import VERSION
from ctclip_export.repository.source import ExportSource


def version_folder(staging: Path, model: Model) -> Path:
    """The folder of a model's files; made if need be."""
    folder = staging / model.name / str(VERSION)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def graph_file(staging: Path, model: Model) -> Path:
    """Where a model's graph lies, or will."""
    return version_folder(staging, model) / "model.onnx"


def make_preprocess(source: ExportSource, staging: Path) -> tuple[Path, Path]:
    """Write the preprocessing graph, and its form for GPUs."""
    path = _save(staging, PREPROCESS, preprocess_graph(source.geometry))
    return path, _save(staging, PREPROCESS, preprocess_gpu_graph(source.geometry), GPU_GRAPH)


def make_text(source: ExportSource, staging: Path) -> tuple[Path, TextEncoder]:
    """Trace the text encoder. Returns the file, and the encoder in its precision.

    Raises: ParityError for weights that do not fit into it.
    """
    model, precision = source.model.text, precision_of(TEXT_ENCODER, source.precision)
    twin = model if precision == "fp32" else typed_twin(model, precision, TEXT_ENCODER.name)
    return _save(staging, TEXT_ENCODER, trace_text(twin, precision)), twin


def make_vision(source: ExportSource, staging: Path) -> tuple[Path, CTViT]:
    """Trace the vision encoder. Returns the file, and the encoder in its precision.

    Raises: ParityError for weights that do not fit into it.
    """
    model, precision = source.model.vision, source.precision
    twin = model if precision == "fp32" else typed_twin(model, precision, VISION.name)
    return _save(staging, VISION, trace_vision(twin, precision)), twin


@dataclass(frozen=True)
class QuantisedVision:
    """An int8 graph of the vision encoder. `ranges`: what PROVENANCE says of its ranges."""

    file: Path
    quantiser: Quantiser
    ranges: Mapping[str, object]


def make_int8_vision(
    source: ExportSource, staging: Path, scans: Calibration, work: Path, stages: Stages
) -> QuantisedVision:
    """Trace the vision encoder in float32 and quantise it by ranges of CTs.

    work: room for the quantiser's files, as long as it is in use.
    """
    with stages.stage("Vision encoder: trace"):
        quantiser = Quantiser(trace_vision(source.model.vision), source.model.vision, work)
    fitting = Voxels(graph_file(staging, PREPROCESS), scans.fitting)
    with stages.stage("Vision encoder: ranges of CT volumes", len(fitting)) as advance:
        quantiser.calibrate(fitting, advance)
    with stages.stage("Vision encoder: quantise"):
        file = graph_file(staging, VISION)
        quantiser.write(file, quantiser.parts)
        onnx.checker.check_model(file, full_check=True)
    ranges = {
        "source": scans.source, "volumes": len(fitting), "voxels_sha256": fitting.sha256,
    }  # fmt: skip
    return QuantisedVision(file, quantiser, ranges)


@torch.no_grad()
def make_scores(
    source: ExportSource, staging: Path, bank: NDArray[np.float32]
) -> dict[Model, Path]:
    """Write all graphs behind the encoders. bank: (2F, E), embeddings of the findings' sentences by
    the text graph that will serve.
    """
    model = source.model
    temperature = float(model.temperature)
    weights = model.relevance_weights(torch.from_numpy(bank)).numpy()
    codebook = model.vision.codebook.numpy()
    graphs = {
        SCORE: score_graph(temperature, bank.shape[1]),
        FINDINGS: findings_graph(temperature, bank),
        RELEVANCE: relevance_graph(weights, codebook, source.dimensions.token_shape),
    }
    if source.checkpoint.classifier is not None:
        head = source.checkpoint.classifier
        graphs[CLASSFINE] = classfine_graph(
            head.linear.weight.numpy(),
            head.linear.bias.numpy(),
            None if head.mean is None else head.mean.numpy(),
        )
    return {each: _save(staging, each, proto) for each, proto in graphs.items()}


def _save(staging: Path, model: Model, proto: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = graph_file(staging, model).with_name(name)
    onnx.save(proto, path)
    onnx.checker.check_model(path, full_check=True)
    return path
