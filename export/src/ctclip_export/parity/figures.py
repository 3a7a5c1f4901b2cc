"""The figures of a verdict: ranks, cosines, margins of codes, changes of similarity."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CHUNK = 2048


def ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks (N,) of values (N,) from 1, ties by average rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    upper = counts.cumsum()
    found: NDArray[np.float64] = ((upper - counts + 1 + upper) / 2)[inverse]
    return found


def spearman(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Rank correlation of two score lists (F,); 1.0 for a single score."""
    if len(a) < 2:
        return 1.0
    ranks_a, ranks_b = ranks(a), ranks(b)
    ranks_a, ranks_b = ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean()
    scale = float(np.sqrt((ranks_a**2).sum() * (ranks_b**2).sum()))
    return float((ranks_a * ranks_b).sum() / scale) if scale else 1.0


def least_cosine(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The least cosine of row with row, of (…, E) and (…, E). NaN stays NaN."""
    a, b = got.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(np.min((a * b).sum(axis=-1) / lengths))


def code_margins(tokens: Tensor, codebook: Tensor) -> Tensor:
    """Best similarity minus second best, (N,), of unit tokens (N, W) with unit codes (W, Z)."""
    best = [(part @ codebook).topk(2, dim=-1).values for part in torch.split(tokens, _CHUNK)]
    return torch.cat([each[:, 0] - each[:, 1] for each in best])


def largest_change(tokens: Tensor, reference: Tensor, codebook: Tensor) -> float:
    """Largest |Δcosine| over tokens and codes; cosines are linear in the unit tokens (N, W)."""
    parts = torch.split(tokens - reference, _CHUNK)
    return max(float((part @ codebook).abs().max()) for part in parts)
