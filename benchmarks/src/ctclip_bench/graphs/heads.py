"""What follows the encoders, in PyTorch: what graphs are compared with, and their peer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_bench.graphs.torch_runner import Function
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_client.contract import CLASSFINE, FINDINGS, RELEVANCE, SCORE
from ctclip_export.model import CTCLIP, Classifier

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Heads:
    """scale: exp(temperature). bank: (2F, E), length 1. weights: (N, W, F) and codebook: (Z, W), of
    relevance maps. classifier: weight (18, E) and bias (18,) of ClassFine, or nothing.
    """

    scale: float
    bank: Tensor
    weights: Tensor
    codebook: Tensor
    classifier: tuple[Tensor, ...] = ()

    def function(self, word: str, device: str = "cpu") -> Function:
        """Of "score", "findings", "relevance" or "classfine": tensors in the order of the graph's
        inputs -> its outputs in theirs.
        """
        bank, weights, codebook, *classifier = (
            each.to(device) for each in (self.bank, self.weights, self.codebook, *self.classifier)
        )

        def score(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:  # (V, E), (2P, E)
            logits = (images @ texts.T * self.scale).reshape(len(images), -1, 2)  # (V, P, 2)
            return logits, logits.softmax(dim=-1)[..., 0]

        def findings(images: Tensor) -> tuple[Tensor, Tensor]:
            return score(images, bank)

        def relevance(codes: Tensor, norm: Tensor) -> Tensor:  # (V, T, R, C), (V, 1)
            tokens = codebook[codes.flatten(2)]  # (V, T, N, W)
            shares = tokens.transpose(1, 2) @ weights  # (V, N, T, F)
            maps = shares.permute(0, 3, 2, 1) / norm[:, :, None, None]  # (V, F, T, N)
            return maps.reshape(*maps.shape[:3], *codes.shape[2:])

        def classfine(images: Tensor) -> Tensor:
            weight, bias = classifier
            return torch.sigmoid(torch.relu(images) @ weight.T + bias)

        functions: dict[str, Function] = {
            "score": score, "findings": findings, "relevance": relevance, "classfine": classfine,
        }  # fmt: skip
        return functions[word]

    def scores(self, images: Array, texts: Array | None = None) -> dict[str, Array]:
        """LOGITS (V, P, 2) and PROBABILITIES (V, P) of images (V, E) and texts (2P, E), by default
        the bank; both of length 1.
        """
        chosen = self.bank if texts is None else torch.tensor(texts)
        logits, probabilities = self.function("score")(torch.tensor(images), chosen)
        return {"LOGITS": logits.numpy(), "PROBABILITIES": probabilities.numpy()}


@torch.no_grad()
def heads_of_checkpoint(
    model: CTCLIP, bank: Tensor, head: Classifier | None, inputs: ParityInputs
) -> Heads:
    """From the reference. head: None takes that of the repository, if it has one: it may have come
    from a checkpoint of its own.
    """
    weights = model.relevance_weights(bank).transpose(1, 2).contiguous()  # (N, W, F)
    classifier = _served_classifier(inputs)
    if head is not None:
        classifier = head.linear.weight.detach(), head.linear.bias.detach()
    scale, codebook = float(model.temperature.exp()), model.vision.codebook.detach()
    return Heads(scale, bank, weights, codebook, classifier)


def heads_of_graphs(inputs: ParityInputs) -> Heads:
    """From the constants of the repository's graphs."""
    relevance = _constants(inputs.file(RELEVANCE.name))
    bank = _constants(inputs.file(FINDINGS.name))["prompt_embedding"]
    return Heads(
        float(_constants(inputs.file(SCORE.name))["scale"]),
        bank / bank.norm(dim=-1, keepdim=True),
        relevance["weights"], relevance["codebook"], _served_classifier(inputs),
    )  # fmt: skip


def _served_classifier(inputs: ParityInputs) -> tuple[Tensor, ...]:
    if CLASSFINE.name not in inputs.members.steps:
        return ()
    constants = _constants(inputs.file(CLASSFINE.name))
    return constants["weight"], constants["bias"]


def _constants(path: Path) -> dict[str, Tensor]:
    def tensor(constant: Any) -> Tensor:
        return torch.tensor(onnx.numpy_helper.to_array(constant))

    return {each.name: tensor(each) for each in onnx.load(path).graph.initializer}
