"""The ladder's upper rung: what the server answers for a CT, against the reference model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ctclip_bench.bounds import COSINE_BOUND, PROBABILITY_BOUND
from ctclip_client import Volume
from ctclip_client.contract import Finding, Geometry
from ctclip_export.checkpoint import Checkpoint, TextModel
from ctclip_export.model.preprocess import preprocess
from ctclip_export.text.tokens import tokenised


@dataclass(frozen=True)
class ServedParity:
    """One scan, served against reference, in float32."""

    cosine: float
    logit_difference: float
    probability_difference: float

    @property
    def passed(self) -> bool:
        """Within the bounds for float32 on any runtime. NaN passes nothing."""
        return self.cosine >= COSINE_BOUND and self.probability_difference <= PROBABILITY_BOUND


@dataclass(frozen=True)
class Answer:
    """Image embedding (E,), logits (F, 2), probabilities (F,), float32."""

    image_embedding: NDArray[np.float32]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]


@torch.no_grad()
def reference_answer(
    checkpoint: Checkpoint,
    text_model: TextModel,
    geometry: Geometry,
    scan: Volume,
    bank: tuple[Finding, ...],
) -> Answer:
    """The whole way in PyTorch: upstream's preprocessing, both encoders, scores."""
    model = checkpoint.model
    voxels = preprocess(scan.voxels, scan.spacing_mm, scan.rescale, geometry)
    image, _, _ = model.vision(voxels)
    texts = [text for entry in bank for text in (entry.present, entry.absent)]
    tokens = tokenised(texts, text_model.vocabulary_bytes.decode("utf-8"))
    ids, mask = (torch.from_numpy(array) for array in tokens)
    logits, probabilities = model.score(image, model.text(ids, mask))
    return Answer(image[0].numpy(), logits[0].numpy(), probabilities[0].numpy())


def compare_answers(served: Answer, reference: Answer) -> ServedParity:
    """Cosine of the embeddings, largest differences of logits and probabilities."""
    a, b = (answer.image_embedding.astype(np.float64) for answer in (served, reference))
    return ServedParity(
        cosine=float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))),
        logit_difference=float(np.abs(served.logits - reference.logits).max()),
        probability_difference=float(np.abs(served.probabilities - reference.probabilities).max()),
    )
