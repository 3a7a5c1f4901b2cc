"""Fit a codebook by spherical k-means, and tell how well it spreads over other tokens.

With random code rows nearly all tokens would fall on a few of them, and every precision would look
equally bad or equally good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # it needs rich, which fitting does not
    from ctclip_client.system.progress import Advance

_CHUNK = 4096


def fit_codebook(
    tokens: Tensor, size: int, seed: int, rounds: int, advance: Advance = lambda _: None
) -> Tensor:
    """Unit-length code rows (size, W) for tokens (N, W), N ≥ size.

    `advance` is called with 1 after each round. Codes that no token chose are moved to tokens that
    the others serve worst.
    """
    unit = F.normalize(tokens, dim=-1)
    generator = torch.Generator().manual_seed(seed)
    codes = unit[torch.randperm(len(unit), generator=generator)[:size]].clone()
    for _ in range(rounds):
        nearest, cosine = _assign(unit, codes)
        sums = torch.zeros_like(codes).index_add_(0, nearest, unit)
        empty = torch.bincount(nearest, minlength=size) == 0
        sums[empty] = unit[cosine.argsort()[: int(empty.sum())]]
        codes = F.normalize(sums, dim=-1)
        advance(1)
    return codes


def _assign(unit: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest code of each token (N,), and its cosine (N,), in chunks that stay small."""
    best = [(chunk @ codes.T).max(dim=-1) for chunk in torch.split(unit, _CHUNK)]
    return torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])


@dataclass(frozen=True)
class CodeUsage:
    """How a codebook serves a set of tokens. Margins: best cosine minus second best.

    fitted_tokens: how many other tokens it was fitted to.
    """

    fitted_tokens: int
    tokens: int
    used: int
    perplexity: float
    margin_percentiles: dict[int, float]


def code_usage(tokens: Tensor, codes: Tensor, fitted_tokens: int) -> CodeUsage:
    """Usage of code rows (Z, W) by tokens (N, W)."""
    unit_codes = F.normalize(codes, dim=-1)
    margins, chosen = [], []
    for chunk in torch.split(F.normalize(tokens, dim=-1), _CHUNK):
        best = (chunk @ unit_codes.T).topk(2, dim=-1)
        margins.append(best.values[:, 0] - best.values[:, 1])
        chosen.append(best.indices[:, 0])
    counts = torch.bincount(torch.cat(chosen), minlength=len(codes)).double()
    share = counts[counts > 0] / counts.sum()
    margin = torch.cat(margins)
    return CodeUsage(
        fitted_tokens=fitted_tokens,
        tokens=len(tokens),
        used=int((counts > 0).sum()),
        perplexity=float(torch.exp(-(share * share.log()).sum())),
        margin_percentiles={p: float(margin.quantile(p / 100)) for p in (1, 10, 50, 90)},
    )
