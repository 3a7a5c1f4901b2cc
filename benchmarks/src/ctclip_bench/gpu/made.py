"""What is made where nothing can be fetched: a chest and variations of it, a checkpoint of random
weights, its text model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctclip_bench.demo.codebook import CodeUsage, code_usage, fit_codebook
from ctclip_bench.demo.random_checkpoint import random_model, save_in_upstream_layout
from ctclip_bench.demo.sizes import MANY_TOKENS, SMALL, DemoModel
from ctclip_bench.demo.text_model import write_text_model
from ctclip_client.contract import Geometry
from ctclip_client.errors import Unreadable
from ctclip_export.model import CTViT
from ctclip_export.model.preprocess import preprocess
from ctclip_export.samples.phantom import chest_phantom
from ctclip_export.text.word_pieces import SPECIAL_TOKENS

_HALF = Geometry((120, 240, 240), (3.0, 1.5, 1.5))
"""Half the published resolution: a chest of 3 MiB, see benchmarks/gpu/pack_ct.py."""
_SEED = 20
_FITTED_FROM, _JUDGED_SEED = 1000, 1
"""The codebook is judged on a variation that it was not fitted to."""


def base_chest(packed: Path | None) -> Tensor:
    """VOXELS (1, 1, 120, 240, 240) float32 in [−1, 1] of the packed CT, or of a drawn one.

    packed: .npz with `voxels` uint8 (120, 240, 240), −1 as 0 and 1 as 255. Raises: Unreadable.
    """
    if packed is None:
        drawn = chest_phantom(_HALF)
        return preprocess(drawn.voxels, drawn.spacing_mm, drawn.rescale, _HALF)
    remedy = "Name a file that benchmarks/gpu/pack_ct.py has written."
    try:
        with np.load(packed) as content:
            stored = content["voxels"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise Unreadable(f"--ct: {packed}: {error}.", remedy) from error
    if stored.dtype != np.uint8 or stored.shape != _HALF.volume_shape:
        got = f"{stored.dtype} {stored.shape}"
        raise Unreadable(f"--ct: voxels {got}, expected uint8 {_HALF.volume_shape}.", remedy)
    return torch.from_numpy(stored).float()[None, None] / 127.5 - 1


def vary(chest: Tensor, seed: int, shape: tuple[int, int, int]) -> Tensor:
    """A variation (1, 1, D, H, W) of a chest (1, 1, d, h, w), both float32 in [−1, 1].

    Turned in the plane by up to 10°, moved by up to 5 % of each axis, up to 10 % larger or smaller,
    noise of 5 to 30 HU. The same seed gives the same values on one device.
    """
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return float(torch.rand((), generator=generator)) * (high - low) + low

    angle, scale = math.radians(between(-10, 10)), between(0.9, 1.1)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    x, y, z = (between(-0.1, 0.1) for _ in range(3))  # of an axis of length 2
    # affine_grid speaks of (y, x, z) in [−1, 1], the last axis first.
    rows = [[cos, -sin, 0.0, x], [sin, cos, 0.0, y], [0.0, 0.0, scale, z]]
    matrix = torch.tensor(rows, device=chest.device)
    grid = F.affine_grid(matrix[None], [1, 1, *shape], align_corners=False)
    # Outside of the chest is air, −1, while grid_sample fills with 0.
    moved = F.grid_sample(chest + 1, grid, align_corners=False) - 1
    of_device = torch.Generator(chest.device).manual_seed(seed)
    noise = torch.randn(moved.shape, generator=of_device, device=chest.device)
    return (moved + noise * between(0.005, 0.03)).clamp_(-1, 1)


def size(*, small: bool) -> DemoModel:
    """The demo's, with as many tokens as lower precisions need to be judged on."""
    return SMALL if small else MANY_TOKENS


@torch.no_grad()
def make_checkpoint(path: Path, chest: Tensor, *, small: bool) -> CodeUsage:
    """Make the checkpoint in upstream's layout, its codebook fitted on the device of the chest.

    chest: of `base_chest`. Returns how the codebook serves another variation of it.
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
