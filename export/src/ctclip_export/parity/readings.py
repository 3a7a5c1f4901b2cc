"""Readings of the reference, of its typed twins, and of an exported vision graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_export.model import CTCLIP, CTViT
from ctclip_export.parity.judge import Reading

_CHUNK = 2048

Score = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Image embeddings (V, E) -> logits (V, F, 2), probabilities (V, F)."""


class Reference:
    """The float32 model, which every rung is compared with; keeps what comparisons need.

    tokens: unit length, (N, W) for each volume, in the order of the volumes read.
    """

    def __init__(self, model: CTCLIP, text_embedding: Tensor) -> None:
        self.model = model
        self.text_embedding = text_embedding
        self.readings: list[Reading] = []
        self.tokens: list[Tensor] = []

    @torch.no_grad()
    def read(self, voxels: Tensor) -> Reading:
        """One volume (1, 1, D, H, W)."""
        vision = self.model.vision
        stages = vision.stages(voxels)
        tokens = torch.nn.functional.normalize(vision.to_grid(stages.temporal_tokens), dim=-1)
        margins = [
            (best := vision.similarities(chunk).topk(2, dim=-1).values)[:, 0] - best[:, 1]
            for chunk in torch.split(tokens.flatten(0, 3), _CHUNK)
        ]
        reading = make_reading(stages.codes, stages.embedding, self.score)
        complete = Reading(
            reading.codes, reading.image_embedding, reading.logits, reading.probabilities,
            torch.cat(margins).reshape(stages.codes.shape[1:]).numpy(),
        )  # fmt: skip
        self.readings.append(complete)
        self.tokens.append(tokens.flatten(0, 3))
        return complete

    def score(self, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the reference's own bank."""
        return self.model.score(image_embedding, self.text_embedding)

    @torch.no_grad()
    def similarity_error(self, volume: int, tokens: Tensor) -> float:
        """Largest |Δcosine| over all tokens and codes, for unit tokens (N, W) of another rung."""
        codes = self.model.vision.unit_codebook.T  # (W, Z)
        difference = tokens.float() - self.tokens[volume]  # cosines are linear in the unit tokens
        largest = [float((part @ codes).abs().max()) for part in torch.split(difference, _CHUNK)]
        return max(largest)


def make_reading(codes: Tensor, embedding: Tensor, score: Score) -> Reading:
    """One volume's reading from codes (1, T, R, C) and embedding (1, E)."""
    logits, probabilities = score(embedding)
    return Reading(
        codes[0].numpy(), embedding[0].numpy(), logits[0].numpy(), probabilities[0].numpy()
    )


@torch.no_grad()
def read_twin(twin: CTViT, voxels: Tensor, score: Score) -> tuple[Reading, Tensor]:
    """A typed twin's reading of one volume, and its unit tokens (N, W)."""
    stages = twin.stages(voxels)
    tokens = torch.nn.functional.normalize(twin.to_grid(stages.temporal_tokens), dim=-1)
    return make_reading(stages.codes, stages.embedding, score), tokens.flatten(0, 3)


class VisionGraph:
    """An exported vision graph in ONNX Runtime, with its unit tokens made visible."""

    def __init__(self, path: Path) -> None:
        """Load the graph with one more output: what goes into the code search.

        Raises: ValueError if the graph has no code search; onnxruntime's own errors if it cannot
        run here.
        """
        model = onnx.load(path)
        self._tokens = searched_tokens(model.graph)
        model.graph.output.append(onnx.ValueInfoProto(name=self._tokens))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Beside the file that is judged there may be no room; a path spares a copy of 700 MB.
        with tempfile.TemporaryDirectory(prefix="ctclip-parity-") as folder:
            visible = Path(folder) / "model.onnx"
            onnx.save(model, visible)
            del model
            self._session = onnxruntime.InferenceSession(
                str(visible), options, providers=["CPUExecutionProvider"]
            )

    def run(self, voxels: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], Tensor]:
        """Outputs by name for VOXELS (1, 1, D, H, W), and the unit tokens (N, W)."""
        names = ["IMAGE_EMBEDDING", "IMAGE_NORM", "CODES", self._tokens]
        *outputs, tokens = self._session.run(names, {"VOXELS": voxels})
        flat = torch.from_numpy(tokens).reshape(-1, tokens.shape[-1]).float()
        return dict(zip(names[:3], outputs, strict=True)), flat

    def read(self, voxels: NDArray[np.float32], score: Score) -> tuple[Reading, Tensor]:
        """The graph's reading of one volume, and its unit tokens (N, W)."""
        outputs, tokens = self.run(voxels)
        codes, embedding = (
            torch.from_numpy(outputs[name]) for name in ("CODES", "IMAGE_EMBEDDING")
        )
        return make_reading(codes, embedding, score), tokens


def searched_tokens(graph: onnx.GraphProto) -> str:
    """Name of the tensor that the code search multiplies with the codebook.

    Raises: ValueError.
    """
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "ArgMax":
            search = makers.get(node.input[0])
            if search is not None and search.op_type == "MatMul":
                return str(search.input[0])
    raise ValueError("the graph has no code search (ArgMax over a MatMul)")


def worst_error(reference: Reference, tokens: Sequence[Tensor]) -> float:
    """Largest similarity error over all volumes; tokens in the reference's order."""
    return max(reference.similarity_error(index, each) for index, each in enumerate(tokens))
