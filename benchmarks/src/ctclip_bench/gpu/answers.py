"""What an encoder in PyTorch says of a batch, as the judge takes it."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from ctclip_bench.gpu.subject import Subject
from ctclip_bench.results.result import Parity
from ctclip_export.model import CTViT
from ctclip_export.parity.figures import least_cosine
from ctclip_export.parity.judge import BOUNDS, StepAnswer

Encode = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""VOXELS (B, 1, D, H, W) -> temporal tokens (B·N, T, W), embedding (B, E), codes (B, T, R, C)."""


def encoder(vision: CTViT) -> Encode:
    """The vision encoder's forward, with the tokens that its code search reads: no more work."""

    def encode(voxels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stages = vision.stages(voxels)
        return stages.temporal_tokens, stages.embedding, stages.codes

    return encode


def answers(subject: Subject, found: tuple[Tensor, Tensor, Tensor]) -> list[StepAnswer]:
    """One for each volume; scores by the reference's own bank."""
    temporal, embedding, codes = found
    tokens = F.normalize(subject.reference.vision.to_grid(temporal).float(), dim=-1)
    images = embedding.float().cpu().numpy()
    outputs = {"CODES": codes.cpu().numpy(), "IMAGE_EMBEDDING": images, **subject.scores(images)}
    return [
        StepAnswer.of(
            {name: array[index : index + 1] for name, array in outputs.items()},
            tokens=tokens[index].flatten(0, 2).cpu().numpy(),
        )
        for index in range(len(codes))
    ]


def text_parity(subject: Subject, embeddings: Tensor) -> Parity:
    """Of embeddings (2F, E) of the bank's sentences that a text encoder made on the device."""
    cosine = least_cosine(embeddings.float().cpu().numpy(), subject.bank_on_cpu.numpy())
    verdict = "PASS" if cosine >= BOUNDS["fp32"].cosine else "FAIL"
    return Parity(verdict, "PyTorch float32 on the CPU", cosine=cosine)
