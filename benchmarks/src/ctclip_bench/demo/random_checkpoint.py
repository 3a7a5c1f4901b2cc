"""A checkpoint of random weights in upstream's exact layout. Nothing in it was ever trained."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ctclip_export.checkpoint.file import declared_random
from ctclip_export.checkpoint.names import POSITION_IDS, slots
from ctclip_export.model import CTCLIP, CTViT, ModelConfig

TEMPERATURE = 2.659
"""log(1/0.07), CLIP's usual starting point: cosine differences become visible probabilities."""

FitCodebook = Callable[[CTViT], Tensor]


def random_model(config: ModelConfig, seed: int, fit_codebook: FitCodebook) -> CTCLIP:
    """A reference model of random weights; `fit_codebook` gets its vision encoder and returns unit
    code rows (Z, W), which are stretched by 0.8 to 1.2: stored rows need not have length 1.
    """
    torch.manual_seed(seed)
    model = CTCLIP(config).eval().requires_grad_(False)
    for module in model.text.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)  # as BERT starts
    model.temperature.fill_(TEMPERATURE)
    model.vision.fold_constants()
    stretch = torch.empty(config.vision.codebook_size, 1).uniform_(0.8, 1.2)
    model.vision.codebook.copy_(fit_codebook(model.vision) * stretch)
    model.vision.fold_constants()
    return model


def save_in_upstream_layout(model: CTCLIP, path: Path, seed: int) -> None:
    """Write the state dict as upstream names it, and the file that declares it random.

    Neither file appears half-written: the declaration comes first, the checkpoint by renaming.
    """
    torch.manual_seed(seed)
    weights = model.state_dict()
    state: dict[str, Tensor] = {}
    for name, slot in slots(model.config).items():
        if slot.ours is not None:
            state[name] = weights[slot.ours].reshape(slot.shape)
        else:
            state[name] = torch.randn(slot.shape) * 0.02
    state[POSITION_IDS] = torch.arange(model.config.text.positions)[None]
    declared_random(path).write_text(json.dumps({"seed": seed}) + "\n", encoding="utf-8")
    # torch names the folder inside the archive after the file, up to its last dot, and "archive"
    # where it is given an open one: a hidden file, or `placed`, would change the bytes, and with
    # them the SHA-256 by which kept results name the checkpoint.
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True
    ) as folder:
        part = Path(folder) / f"{path.name}.part"
        torch.save(state, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
