"""A checkpoint of random weights and its text model, made where neither can be fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ctclip_bench.demo.codebook import CodeUsage, code_usage, fit_codebook
from ctclip_bench.demo.random_checkpoint import random_model, save_in_upstream_layout
from ctclip_bench.demo.sizes import MANY_TOKENS, SMALL, DemoModel
from ctclip_bench.demo.text_model import write_text_model
from ctclip_bench.gpu.chest import vary
from ctclip_export.model import CTViT
from ctclip_export.text.word_pieces import SPECIAL_TOKENS

_SEED = 20
_FITTED_FROM, _JUDGED_SEED = 1000, 1
"""The codebook is judged on a variation that it was not fitted to."""


def size(*, small: bool) -> DemoModel:
    """The demo's, with as many tokens as lower precisions need to be judged on."""
    return SMALL if small else MANY_TOKENS


@torch.no_grad()
def make_checkpoint(path: Path, chest: Tensor, *, small: bool) -> CodeUsage:
    """Make the checkpoint in upstream's layout, its codebook fitted on the device of the chest.

    chest: (1, 1, d, h, w), see `chest`. Returns how the codebook serves another variation of it.
    """
    demo = size(small=small)
    judged = chest[:0]

    def tokens(vision: CTViT, seed: int) -> Tensor:
        voxels = vary(chest, seed, demo.config.vision.volume_shape)
        return vision.encode(vision.embed_patches(voxels))[1].flatten(0, 1)  # (T·R·C, W)

    def fit(vision: CTViT) -> Tensor:
        nonlocal judged
        vision.to(chest.device)
        seeds = range(_FITTED_FROM, _FITTED_FROM + demo.fitting_variations)
        fitting = torch.cat([tokens(vision, seed) for seed in seeds])
        judged = tokens(vision, _JUDGED_SEED)
        vision.cpu()
        return fit_codebook(fitting, demo.config.vision.codebook_size, _SEED, demo.rounds).cpu()

    model = random_model(demo.config, _SEED, fit)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_in_upstream_layout(model, path, _SEED)
    return code_usage(judged.cpu(), model.vision.codebook, demo.fitting_tokens)


def make_text_model(folder: Path, sentences: Iterable[str], *, small: bool) -> None:
    """A text model's folder, whose vocabulary has the words of these sentences and no others.

    So they become about as many tokens as in a real vocabulary. Unused entries fill it up to BERT's
    30,522, for a table of embeddings as large.
    """
    config = size(small=small).config.text
    found = {word for text in sentences for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    tokens = [*SPECIAL_TOKENS, *sorted(found)]
    tokens += [f"[unused{number}]" for number in range(config.vocabulary_size - len(tokens))]
    write_text_model(config, "".join(f"{token}\n" for token in tokens).encode(), folder)
