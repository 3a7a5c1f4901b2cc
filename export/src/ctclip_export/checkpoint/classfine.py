"""The classifier of ClassFine (CT-LiPro) files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ctclip_client.contract import CLASS_COUNT
from ctclip_client.errors import InvalidInput
from ctclip_export.checkpoint.names import VISION
from ctclip_export.checkpoint.unwrap import Contents
from ctclip_export.model import Classifier


def build_classifier(tensors: Mapping[str, Tensor], embedding_size: int) -> Classifier:
    """Check the head's tensors and make the module.

    Raises: InvalidInput naming the tensor that is missing, unexpected, mis-shaped or not finite.
    """
    shapes = {"classifier.weight": (CLASS_COUNT, embedding_size), "classifier.bias": (CLASS_COUNT,)}
    unexpected = [name for name in tensors if name not in shapes]
    if unexpected:
        raise InvalidInput(
            f"ClassFine: unexpected: {', '.join(unexpected)}; upstream's head is one linear layer.",
            "Take an original CT_LiPro_v2.pt.",
        )
    for name, shape in shapes.items():
        got = tuple(tensors[name].shape) if name in tensors else "missing"
        if got != shape or not torch.isfinite(tensors[name]).all():
            raise InvalidInput(
                f"ClassFine: '{name}' is {got if got != shape else 'not finite'}, expected "
                f"{shape}, one row for each of CT-RATE's {CLASS_COUNT} findings.",
                "Take an original CT_LiPro_v2.pt.",
            )
    head = Classifier(embedding_size, CLASS_COUNT)
    head.linear.weight = torch.nn.Parameter(tensors["classifier.weight"].float().contiguous())
    head.linear.bias = torch.nn.Parameter(tensors["classifier.bias"].float())
    return head.requires_grad_(False).eval()


def head_beside(
    classfine: Path, other: Contents, state: Mapping[str, Tensor], embedding_size: int
) -> Classifier:
    """The head of a ClassFine file of these contents, for the checkpoint that `state` is of.

    Raises: InvalidInput where it has none, or was trained on another vision encoder's embeddings.
    """
    if not other.classifier:
        raise InvalidInput(
            f"--classfine: {classfine} has no classifier: it is not a ClassFine (CT-LiPro) file.",
            "Take CT_LiPro_v2.pt, or leave --classfine out.",
        )
    for name, tensor in state.items():
        if not name.startswith((VISION, "to_visual_latent.")):
            continue
        if name not in other.state or not torch.equal(other.state[name].float(), tensor.float()):
            raise InvalidInput(
                f"--classfine: its vision encoder is not the checkpoint's ('{name}' differs), so "
                "its classifier would judge embeddings that it was not trained on.",
                "Export it alone, into a repository of its own: --checkpoint CT_LiPro_v2.pt.",
            )
    return build_classifier(other.classifier, embedding_size)
