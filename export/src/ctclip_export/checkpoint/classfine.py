"""ClassFine (CT-LiPro) files: a whole CT-CLIP behind a prefix, and a classifier beside it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ctclip_client.contract import CLASS_COUNT
from ctclip_client.errors import InvalidInput
from ctclip_export.model import Classifier

PREFIX = "trained_model."
HEAD = ("classifier.weight", "classifier.bias")


def split_classifier(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The CT-CLIP in a ClassFine file, and its classifier; other files as they are, and {}."""
    if not any(name.startswith(PREFIX) for name in state):
        return state, {}
    trained = {n.removeprefix(PREFIX): t for n, t in state.items() if n not in HEAD}
    return trained, {name: state[name] for name in HEAD if name in state}


def build_classifier(tensors: Mapping[str, Tensor], embedding_size: int) -> Classifier:
    """Check the head's tensors and make the module.

    Raises: InvalidInput naming the tensor that is missing, mis-shaped or not finite.
    """
    shapes = {"classifier.weight": (CLASS_COUNT, embedding_size), "classifier.bias": (CLASS_COUNT,)}
    for name, shape in shapes.items():
        got = tuple(tensors[name].shape) if name in tensors else "missing"
        if got != shape or not torch.isfinite(tensors[name]).all():
            raise InvalidInput(
                f"checkpoint: '{name}' is {got if got != shape else 'not finite'}, expected "
                f"{shape}, one row for each of CT-RATE's {CLASS_COUNT} findings.",
                "Take an original CT_LiPro_v2.pt.",
            )
    head = Classifier(embedding_size, CLASS_COUNT)
    head.linear.weight = torch.nn.Parameter(tensors["classifier.weight"].float())
    head.linear.bias = torch.nn.Parameter(tensors["classifier.bias"].float())
    return head.requires_grad_(False).eval()
