"""The graphs of the model under measurement, as files: the repository's, or made and kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch

from ctclip_bench.gpu.settings import graph_of_release
from ctclip_bench.gpu.subject import Subject
from ctclip_client.contract import (
    FINDINGS,
    GPU_GRAPH,
    PREPROCESS,
    RELEVANCE,
    SCORE,
    TEXT_ENCODER,
    VISION,
    Model,
)
from ctclip_client.system.files import placed
from ctclip_export.graphs.encoders import trace_text, trace_vision
from ctclip_export.graphs.preprocess import preprocess_gpu_graph, preprocess_graph
from ctclip_export.graphs.relevance import relevance_graph
from ctclip_export.graphs.score import findings_graph, score_graph
from ctclip_export.precision.typed_twin import typed

GRAPHS: Mapping[str, tuple[Model, str]] = {
    "preprocess": (PREPROCESS, ""), "preprocess for GPUs": (PREPROCESS, ""),
    "vision fp32": (VISION, "fp32"), "vision fp16": (VISION, "fp16"),
    "vision bf16": (VISION, "bf16"), "text": (TEXT_ENCODER, "fp32"), "score": (SCORE, ""),
    "findings": (FINDINGS, ""), "relevance": (RELEVANCE, ""),
}  # fmt: skip
"""Name -> model, and precision of an encoder; "" where the graph is the same in all of them."""


def graph(subject: Subject, name: str) -> Path:
    """The file of a graph of GRAPHS; made first, if need be."""
    model, precision = GRAPHS[name]
    repository, release = subject.settings.repository, subject.settings.release
    if repository and release and precision in ("", release.precision):
        file = GPU_GRAPH if name == "preprocess for GPUs" else "model.onnx"
        return graph_of_release(repository, model.name, file)
    path = subject.folder / f"{name.replace(' ', '-')}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        proto = _make(subject, name, precision)
        with placed(path) as file_:
            file_.write(proto.SerializeToString())
    return path


@torch.no_grad()
def _make(subject: Subject, name: str, precision: str) -> onnx.ModelProto:
    if name.startswith("preprocess"):
        make = preprocess_graph if name == "preprocess" else preprocess_gpu_graph
        return make(subject.geometry)
    model, bank = subject.reference, subject.bank.cpu()
    if name.startswith("vision"):
        twin = model.vision if precision == "fp32" else typed(model.vision, precision)
        return trace_vision(twin, precision)
    if name == "text":
        return trace_text(model.text)
    if name == "score":
        return score_graph(float(model.temperature), bank.shape[1])
    if name == "findings":
        return findings_graph(float(model.temperature), bank.numpy())
    weights, codebook = model.relevance_weights(bank).numpy(), model.vision.codebook.numpy()
    return relevance_graph(weights, codebook, model.config.vision.token_shape)
