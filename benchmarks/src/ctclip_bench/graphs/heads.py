"""What follows the encoders, computed once more in NumPy, to compare graphs with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ctclip_bench.parity.inputs import ParityInputs
from ctclip_client.contract import CLASSFINE, FINDINGS, RELEVANCE, SCORE
from ctclip_export.model import CTCLIP, Classifier

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Heads:
    """scale: exp(temperature). bank: (2F, E), length 1. weights: (N, W, F) and codebook: (Z, W), of
    relevance maps. classifier: weight (18, E) and bias (18,) of ClassFine, where there is one.
    """

    scale: float
    bank: Array
    weights: Array
    codebook: Array
    classifier: tuple[Array, Array] | None

    def scores(self, images: Array, texts: Array | None = None) -> dict[str, Array]:
        """LOGITS (V, P, 2) and PROBABILITIES (V, P) of images (V, E) and texts (2P, E), by default
        the bank; both of length 1.
        """
        texts = self.bank if texts is None else texts
        logits = (images @ texts.T * np.float32(self.scale)).reshape(len(images), -1, 2)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return {"LOGITS": logits, "PROBABILITIES": powers[..., 0] / powers.sum(axis=-1)}

    def relevance(self, codes: NDArray[np.int32], norm: Array) -> dict[str, Array]:
        """RELEVANCE (V, F, T, R, C) of codes (V, T, R, C) and norm (V, 1)."""
        volumes, slabs, rows, columns = codes.shape
        tokens = self.codebook[codes.reshape(volumes, slabs, -1)]  # (V, T, N, W)
        shares = tokens.transpose(0, 2, 1, 3) @ self.weights  # (V, N, T, F)
        maps = shares.transpose(0, 3, 2, 1) / norm[:, :, None, None]  # (V, F, T, N)
        return {"RELEVANCE": maps.reshape(volumes, -1, slabs, rows, columns)}

    def classes(self, images: Array) -> dict[str, Array]:
        """PROBABILITIES (V, 18) of images (V, E) by the ClassFine head."""
        if self.classifier is None:
            raise ValueError("there is no ClassFine head")
        weight, bias = self.classifier
        return {"PROBABILITIES": 1 / (1 + np.exp(-(np.maximum(images, 0) @ weight.T + bias)))}


@torch.no_grad()
def heads_of_checkpoint(
    model: CTCLIP, bank: Array, head: Classifier | None, inputs: ParityInputs
) -> Heads:
    """From the reference. head: None takes that of the repository, if it has one: it may have come
    from a checkpoint of its own.
    """
    weights = model.relevance_weights(torch.from_numpy(bank)).transpose(1, 2)  # (N, W, F)
    classifier = _served_classifier(inputs)
    if head is not None:
        classifier = (head.linear.weight.detach().numpy(), head.linear.bias.detach().numpy())
    return Heads(
        float(model.temperature.exp()), bank, weights.contiguous().numpy(),
        model.vision.codebook.detach().numpy(), classifier,
    )  # fmt: skip


def heads_of_graphs(inputs: ParityInputs) -> Heads:
    """From the constants of the repository's graphs."""
    relevance = _constants(inputs.file(RELEVANCE.name))
    bank = _constants(inputs.file(FINDINGS.name))["prompt_embedding"]
    return Heads(
        float(_constants(inputs.file(SCORE.name))["scale"]),
        bank / np.linalg.norm(bank, axis=-1, keepdims=True),
        relevance["weights"], relevance["codebook"], _served_classifier(inputs),
    )  # fmt: skip


def _served_classifier(inputs: ParityInputs) -> tuple[Array, Array] | None:
    if CLASSFINE.name not in inputs.members.steps:
        return None
    constants = _constants(inputs.file(CLASSFINE.name))
    return constants["weight"], constants["bias"]


def _constants(path: Path) -> dict[str, NDArray[Any]]:
    graph = onnx.load(path).graph
    return {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
