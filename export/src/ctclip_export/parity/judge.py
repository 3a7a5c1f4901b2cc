"""The verdict on one rung of the ladder: which differences from the reference are allowed.

A rung is any way of computing what the reference model computes. Codes are discrete, so a small
error becomes either nothing or another code. A code that differs is forgiven only where the
reference itself hesitated: where its best two similarities are closer than twice the error of the
similarity that was measured on that rung. Any other flip fails the rung, in every precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bounds:
    """Least share of equal codes, least cosine of the embedding, largest |Δprobability|."""

    codes: float
    cosine: float
    probability: float


BOUNDS: dict[str, Bounds] = {
    "fp32": Bounds(codes=0.999, cosine=0.9999, probability=1e-3),
    "fp16": Bounds(codes=0.995, cosine=0.9995, probability=0.005),
    "bf16": Bounds(codes=0.98, cosine=0.999, probability=0.01),
    "int8": Bounds(codes=0.95, cosine=0.995, probability=0.03),
}
"""By precision, for the published grid of 13,824 codes.

Measured by `ctclip parity` on the demo checkpoint, the worst of a real CT and ten variations of it
that its codebook was not fitted to, on any runtime of a CPU (codes, cosine, |Δprobability|):
fp32 0.99993, 0.999995, 1.0e-4; fp16 0.9992, 0.99997, 6.1e-4; bf16 0.9945, 0.99978, 2.7e-3;
int8 0.9879, 0.99946, 2.0e-3.
fp32 has room for ties: 2.5e-5 of the tokens have two codes within the error of a float32 cosine,
and one volume in twenty has two of them.
"""

_SMALL_GRID = 1000


def bounds_for(precision: str, tokens: int) -> Bounds:
    """Bounds for a grid of so many codes.

    On a small grid a forgiven tie or two outweigh every rounding. Where λ = (1 − share) · N ties
    are allowed on average, λ + 2√λ are still chance (two deviations of Poisson's law): of 60 codes
    1 in fp16, 3 in bf16, 6 in int8. Each flipped code is another of N shares of the embedding.
    Measured on 60 codes: one tie costs the cosine 0.0024 and a probability up to 0.016, two in bf16
    0.0029 of the cosine; about twice that is allowed. On the published grid the bounds hold as they
    are.
    """
    bounds = BOUNDS[precision]
    if precision == "fp32" or tokens >= _SMALL_GRID:
        return bounds
    mean = (1 - bounds.codes) * tokens
    ties = max(math.floor(mean + 2 * math.sqrt(mean)), 1)
    return Bounds(
        codes=min(bounds.codes, 1 - (ties + 0.5) / tokens),  # half a code for float arithmetic
        cosine=min(bounds.cosine, 1 - 0.25 * ties / tokens),
        probability=max(bounds.probability, 0.02 * math.sqrt(ties)),
    )


@dataclass(frozen=True)
class Reading:
    """What one rung, or the reference, says of one volume.

    codes (T, R, C) int32, None where a rung does not show them; image_embedding (E,),
    logits (F, 2), probabilities (F,) float32.
    margins: (T, R, C) best similarity minus second best; of the reference only.
    text_embedding: (2F, E) of the bank's sentences, None where a rung has no text encoder.
    """

    codes: NDArray[np.int32] | None
    image_embedding: NDArray[np.float32]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    margins: NDArray[np.float32] | None = None
    text_embedding: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Verdict:
    """One line of the ladder's table. `verdict`: PASS, FAIL or NOT RUN; `reason`: why not PASS."""

    rung: str
    verdict: str
    reason: str = ""
    volumes: int = 0
    codes_agree: float | None = None
    flipped_margin: float | None = None
    similarity_error: float | None = None
    cosine: float | None = None
    text_cosine: float | None = None
    logit_difference: float | None = None
    probability_difference: float | None = None
    spearman: float | None = None


def judge(
    rung: str,
    readings: Sequence[Reading],
    references: Sequence[Reading],
    bounds: Bounds,
    similarity_error: float,
) -> Verdict:
    """Compare a rung's readings with the reference's, volume by volume; the worst counts.

    similarity_error: largest measured |Δcosine| between a token and a code on this rung.
    """
    if not readings or len(readings) != len(references):
        return Verdict(
            rung, "FAIL", f"{len(readings)} answers for {len(references)} volumes", len(readings)
        )
    for got, reference in zip(readings, references, strict=True):
        if broken := _broken(got, reference):
            return Verdict(rung, "FAIL", broken, len(readings))
    each = [_measure(got, ref) for got, ref in zip(readings, references, strict=True)]
    # NumPy's minimum and maximum keep NaN; Python's would drop it, and with it the failure.
    shares = [m.codes_agree for m in each if m.codes_agree is not None]
    texts = [m.text_cosine for m in each if m.text_cosine is not None]
    worst = _Measured(
        codes_agree=float(np.min(shares)) if shares else None,
        flipped_margin=float(np.max([m.flipped_margin for m in each])),
        cosine=float(np.min([m.cosine for m in each])),
        text_cosine=float(np.min(texts)) if texts else None,
        logit=float(np.max([m.logit for m in each])),
        probability=float(np.max([m.probability for m in each])),
        spearman=float(np.min([m.spearman for m in each])),
    )
    reason = _out_of_bounds(worst, similarity_error, bounds)
    return Verdict(
        rung=rung,
        verdict="FAIL" if reason else "PASS",
        reason=reason,
        volumes=len(readings),
        codes_agree=worst.codes_agree,
        flipped_margin=worst.flipped_margin,
        similarity_error=similarity_error,
        cosine=worst.cosine,
        text_cosine=worst.text_cosine,
        logit_difference=worst.logit,
        probability_difference=worst.probability,
        spearman=worst.spearman,
    )


@dataclass(frozen=True)
class _Measured:
    codes_agree: float | None
    flipped_margin: float
    cosine: float
    text_cosine: float | None
    logit: float
    probability: float
    spearman: float


def _measure(got: Reading, reference: Reading) -> _Measured:
    codes_agree, flipped_margin = _compare_codes(got, reference)
    ours, theirs = got.text_embedding, reference.text_embedding
    return _Measured(
        codes_agree=codes_agree,
        flipped_margin=flipped_margin,
        cosine=_least_cosine(got.image_embedding[None], reference.image_embedding[None]),
        text_cosine=None if ours is None or theirs is None else _least_cosine(ours, theirs),
        logit=float(np.abs(got.logits - reference.logits).max()),
        probability=float(np.abs(got.probabilities - reference.probabilities).max()),
        spearman=spearman(got.probabilities, reference.probabilities),
    )


def _least_cosine(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The least cosine of row with row, of (N, E) and (N, E)."""
    a, b = got.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / lengths).min())


def _compare_codes(got: Reading, reference: Reading) -> tuple[float | None, float]:
    """Share of codes that agree (None if not shown), largest reference margin where they do not."""
    if got.codes is None or reference.codes is None or reference.margins is None:
        return None, 0.0
    flipped = got.codes != reference.codes
    return 1.0 - float(flipped.mean()), float(reference.margins[flipped].max(initial=0.0))


def _broken(got: Reading, reference: Reading) -> str:
    for name in ("codes", "image_embedding", "text_embedding", "logits", "probabilities"):
        ours, theirs = getattr(got, name), getattr(reference, name)
        if name in ("codes", "text_embedding") and (ours is None or theirs is None):
            continue
        if ours.shape != theirs.shape:
            return f"{name}: shape {ours.shape}, expected {theirs.shape}"
        if ours.dtype != theirs.dtype:
            return f"{name}: {ours.dtype}, expected {theirs.dtype}"
        if not np.isfinite(ours).all():
            return f"{name}: NaN or infinite values"
    return ""


def _out_of_bounds(measured: _Measured, error: float, bounds: Bounds) -> str:
    """What is out of bounds, in words. Every comparison is written so that NaN fails it."""
    share = 1.0 if measured.codes_agree is None else measured.codes_agree
    text_cosine = 1.0 if measured.text_cosine is None else measured.text_cosine
    checks = (
        (
            measured.flipped_margin <= 2 * error,
            f"a code differs where the reference's margin is {measured.flipped_margin:.1e}, more "
            f"than twice the similarity's error of {error:.1e}",
        ),
        (
            share >= bounds.codes,
            f"codes agree {share:.3%}, expected {bounds.codes:.3%}",
        ),
        (
            measured.cosine >= bounds.cosine,
            f"cosine {measured.cosine:.6f}, expected {bounds.cosine}",
        ),
        (
            text_cosine >= bounds.cosine,
            f"cosine of a text {text_cosine:.6f}, expected {bounds.cosine}",
        ),
        (
            measured.probability <= bounds.probability,
            f"|Δprobability| {measured.probability:.1e}, allowed {bounds.probability:g}",
        ),
    )
    return "; ".join(text for good, text in checks if not good)


def spearman(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Rank correlation of two score lists (F,), ties by average rank; 1.0 for a single score."""
    if len(a) < 2:
        return 1.0
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    ranks_a, ranks_b = ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean()
    scale = float(np.sqrt((ranks_a**2).sum() * (ranks_b**2).sum()))
    return float((ranks_a * ranks_b).sum() / scale) if scale else 1.0


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    upper = counts.cumsum()
    ranks: NDArray[np.float64] = ((upper - counts + 1 + upper) / 2)[inverse]
    return ranks
