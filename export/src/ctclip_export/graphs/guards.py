"""Encoders that mark a row which they would otherwise answer with a guess.

Among voxels, NaN becomes a code (the ArgMax over NaN is an index, too), and an id outside of the
vocabulary becomes another word or whatever memory follows the table. Triton joins the requests of
several callers into one batch, so a graph that failed would fail them all. Instead each row is
judged by itself: a bad one gets NaN and codes of -1, which the graphs behind and the client
refuse, and the others get what they would get alone. Nothing here has a shape that depends on data,
so that engines keep it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctclip_export.model import CTViT, TextEncoder


class GuardedVision(nn.Module):
    """A vision encoder that marks volumes whose voxels are not finite."""

    def __init__(self, encoder: CTViT) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, voxels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1, D, H, W) float32 -> embedding (B, E), norm (B, 1), codes (B, T, R, C) int32.

        Where a voxel is NaN or infinite, or so large that its square is: NaN, NaN and -1.
        """
        embedding, norm, codes = self.encoder(voxels)
        # A length is not finite if one voxel is not; a maximum may skip NaN.
        length = torch.linalg.vector_norm(voxels, dim=(1, 2, 3, 4))  # (B,)
        good = (length < math.inf)[:, None]  # (B, 1)
        codes = torch.where(good[:, :, None, None], codes, -1)
        return _where(good, embedding), _where(good, norm), codes


class GuardedText(nn.Module):
    """A text encoder that marks texts with ids outside of the vocabulary or a malformed mask."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both (N, L) int64 -> (N, E) float32.

        NaN for a row with an id outside of 0...vocabulary - 1, with anything but 0 and 1 in its
        mask, with no 1 in it, or with a mask that is not as long as the ids.
        """
        inside = (input_ids >= 0) & (input_ids < self.encoder.config.vocabulary_size)  # (N, L)
        shown, hidden = attention_mask == 1, attention_mask == 0  # (N, L)
        # The sums are of other lengths where one row of a mask stands for several ids, which the
        # encoder's addition would take.
        good = (
            inside.all(1)
            & (shown | hidden).all(1)
            & shown.any(1)
            & (_count(inside) == _count(shown | hidden))
        )
        # A GPU reads on behind the table; the row is marked whatever comes of it.
        embedding = self.encoder(torch.where(inside, input_ids, 0), attention_mask)
        return _where(good[:, None], embedding)


def _count(flags: Tensor) -> Tensor:
    """How many of each row are true. In float32, which every runtime adds up; exact."""
    return flags.float().sum(1)


def _where(good: Tensor, values: Tensor) -> Tensor:
    return torch.where(good, values, math.nan)
