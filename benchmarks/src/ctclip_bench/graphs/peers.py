"""Each graph as a function in PyTorch, with what does not change from scan to scan made before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_bench.graphs.subject import Subject
from ctclip_bench.graphs.torch_runner import Function, encoder_on, fitted_float32
from ctclip_client.errors import InvalidInput


def peer(subject: Subject, word: str, precision: str, device: str) -> Function:
    """The function of a graph, "vision", …, whose inputs and outputs are those of the graph.

    precision: of an encoder's trunk; the others are float32.
    Raises: InvalidInput without a reference; OverflowError for weights that float16 cannot hold.
    """
    if subject.model is None:
        raise InvalidInput("without --against there is no PyTorch model.", "Name a checkpoint.")
    if word in ("vision", "text"):
        return encoder_on(getattr(subject.model, word), precision, device)
    if word == "preprocess":
        return fitted_float32(subject.inputs.release.geometry)
    heads = subject.served
    if word == "score":
        return _score(heads.scale)
    if word == "findings":
        score, bank = _score(heads.scale), _on(heads.bank, device)
        return lambda images: score(images, bank)
    if word == "relevance":
        return _relevance(_on(heads.weights, device), _on(heads.codebook, device))
    if heads.classifier is None:
        raise InvalidInput("this release has no ClassFine head.", "Leave classfine out.")
    weight, bias = (_on(each, device) for each in heads.classifier)
    return lambda images: torch.sigmoid(torch.relu(images) @ weight.T + bias)


def _score(scale: float) -> Function:
    def score(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        logits = (images @ texts.T * scale).reshape(len(images), -1, 2)  # (V, P, 2)
        return logits, logits.softmax(dim=-1)[..., 0]

    return score


def _relevance(weights: Tensor, codebook: Tensor) -> Function:
    """weights: (N, W, F); codebook: (Z, W)."""

    def relevance(codes: Tensor, norm: Tensor) -> Tensor:
        rows = codebook[codes.flatten(2)]  # (V, T, N, W)
        shares = rows.transpose(1, 2) @ weights  # (V, N, T, F)
        maps = shares.permute(0, 3, 2, 1) / norm[:, :, None, None]  # (V, F, T, N)
        return maps.reshape(*maps.shape[:3], *codes.shape[2:])

    return relevance


def _on(array: NDArray[Any], device: str) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)
