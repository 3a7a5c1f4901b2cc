"""Answers of the reference model and of its typed twins, in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_client.contract import Finding, Geometry
from ctclip_client.prompts import sentences
from ctclip_client.volume import Volume
from ctclip_export.checkpoint import Checkpoint, TextModel
from ctclip_export.model import CTCLIP, CTViT
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.judge import Bounds, StepAnswer, StepVerdict, bounds_for, judge
from ctclip_export.text.tokens import tokenised


@torch.no_grad()
def answer_in_pytorch(model: CTCLIP, vision: CTViT, bank: Tensor, voxels: Tensor) -> StepAnswer:
    """One volume (1, 1, D, H, W) by a vision encoder, the model's own or a typed twin of it.

    bank: embeddings (2F, E) of the sentences, on the device of the model.
    """
    stages = vision.stages(voxels)
    tokens = torch.nn.functional.normalize(vision.to_grid(stages.temporal_tokens).float(), dim=-1)
    embedding = stages.embedding.float()
    logits, probabilities = model.score(embedding, bank)
    return StepAnswer(
        codes=stages.codes[0].cpu().numpy(),
        image_embedding=embedding[0].cpu().numpy(),
        logits=logits[0].cpu().numpy(),
        probabilities=probabilities[0].cpu().numpy(),
        text_embedding=bank.cpu().numpy(),
        tokens=tokens.flatten(0, 3).cpu().numpy(),
    )


@torch.no_grad()
def reference_answer(
    checkpoint: Checkpoint,
    text_model: TextModel,
    geometry: Geometry,
    scan: Volume,
    bank: Sequence[Finding],
) -> StepAnswer:
    """The whole way in PyTorch: upstream's preprocessing, both encoders, scores."""
    model = checkpoint.model
    tokens = tokenised(sentences(bank), text_model.vocabulary_bytes.decode("utf-8"))
    ids, mask = (torch.from_numpy(array) for array in tokens)
    voxels = preprocess(scan.voxels, scan.spacing_mm, scan.rescale, geometry)
    return answer_in_pytorch(model, model.vision, model.text(ids, mask), voxels)


class Reference:
    """The float32 model, which graphs are compared with; keeps its answers for the volumes read."""

    def __init__(self, model: CTCLIP, bank: Tensor) -> None:
        """bank: embeddings (2F, E) of the sentences."""
        self.model = model
        self.answers: list[StepAnswer] = []
        self._bank = bank

    def read(self, voxels: Tensor) -> None:
        """Keep the answer for one volume (1, 1, D, H, W)."""
        self.answers.append(self.answer(self.model.vision, voxels))

    def answer(self, vision: CTViT, voxels: Tensor) -> StepAnswer:
        """What a twin of the vision encoder says; nothing is kept."""
        return answer_in_pytorch(self.model, vision, self._bank, voxels)

    @torch.no_grad()
    def scores(self, image_embedding: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """LOGITS and PROBABILITIES of an embedding (V, E), by the reference's own bank."""
        logits, probabilities = self.model.score(torch.from_numpy(image_embedding), self._bank)
        return {"LOGITS": logits.numpy(), "PROBABILITIES": probabilities.numpy()}

    def bounds(self, precision: str) -> Bounds:
        """What may differ in a precision, on the model's grid of codes."""
        return bounds_for(precision, math.prod(self.model.config.vision.token_shape))

    def judge(self, step: str, answers: Sequence[StepAnswer], bounds: Bounds) -> StepVerdict:
        """The verdict on answers for the volumes that were read, in their order."""
        codebook = self.model.vision.unit_codebook.T  # (W, Z)
        return judge(step, answers, self.answers, bounds, codebook=codebook)
