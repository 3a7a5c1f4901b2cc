"""Readings of the reference model and of its typed twins."""

from __future__ import annotations

from collections.abc import Callable

import torch
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
        margins = code_margins(tokens.flatten(0, 3), vision.unit_codebook.T)
        reading = make_reading(stages.codes, stages.embedding, self.score)
        complete = Reading(
            reading.codes, reading.image_embedding, reading.logits, reading.probabilities,
            margins.reshape(stages.codes.shape[1:]).numpy(),
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
        return largest_change(tokens.float(), self.tokens[volume], codes)


def code_margins(tokens: Tensor, codes: Tensor) -> Tensor:
    """Best similarity minus second best, (N,), of unit tokens (N, W) with unit codes (W, Z)."""
    best = [(part @ codes).topk(2, dim=-1).values for part in torch.split(tokens, _CHUNK)]
    return torch.cat([each[:, 0] - each[:, 1] for each in best])


def largest_change(tokens: Tensor, reference: Tensor, codes: Tensor) -> float:
    """Largest |Δcosine| over tokens and codes; cosines are linear in the unit tokens (N, W)."""
    parts = torch.split(tokens - reference, _CHUNK)
    return max(float((part @ codes).abs().max()) for part in parts)


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
