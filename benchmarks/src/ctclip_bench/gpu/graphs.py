"""The graphs of the model under measurement, as files: the repository's, or made and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Graph:
    """model: whose file it is; file: its name in a repository. precision: of an encoder, "" where
    the graph is the same in all of them.
    """

    model: Model
    make: Callable[[Subject], onnx.ModelProto]
    precision: str = ""
    file: str = "model.onnx"


def graph(subject: Subject, name: str) -> Path:
    """The file of a graph of GRAPHS; made first, if need be."""
    asked = GRAPHS[name]
    repository, release = subject.settings.repository, subject.settings.release
    if repository and release and asked.precision in ("", release.precision):
        return graph_of_release(repository, asked.model.name, asked.file)
    path = subject.folder / f"{name.replace(' ', '-')}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        proto = asked.make(subject)
        with placed(path) as file:
            file.write(proto.SerializeToString())
    return path


def _vision(precision: str) -> Callable[[Subject], onnx.ModelProto]:
    def make(subject: Subject) -> onnx.ModelProto:
        encoder = subject.reference.vision
        twin = encoder if precision == "fp32" else typed(encoder, precision)
        return trace_vision(twin, precision)

    return make


def _score(subject: Subject) -> onnx.ModelProto:
    return score_graph(float(subject.reference.temperature), subject.bank.shape[1])


def _findings(subject: Subject) -> onnx.ModelProto:
    return findings_graph(float(subject.reference.temperature), subject.bank.cpu().numpy())


@torch.no_grad()
def _relevance(subject: Subject) -> onnx.ModelProto:
    model = subject.reference
    weights = model.relevance_weights(subject.bank.cpu()).numpy()
    codebook = model.vision.codebook.numpy()
    return relevance_graph(weights, codebook, model.config.vision.token_shape)


GRAPHS: Mapping[str, Graph] = {
    "preprocess": Graph(PREPROCESS, lambda subject: preprocess_graph(subject.geometry)),
    "preprocess for GPUs": Graph(
        PREPROCESS, lambda subject: preprocess_gpu_graph(subject.geometry), file=GPU_GRAPH
    ),
    "vision fp32": Graph(VISION, _vision("fp32"), "fp32"),
    "vision fp16": Graph(VISION, _vision("fp16"), "fp16"),
    "vision bf16": Graph(VISION, _vision("bf16"), "bf16"),
    "text": Graph(TEXT_ENCODER, lambda subject: trace_text(subject.reference.text), "fp32"),
    "score": Graph(SCORE, _score),
    "findings": Graph(FINDINGS, _findings),
    "relevance": Graph(RELEVANCE, _relevance),
}
