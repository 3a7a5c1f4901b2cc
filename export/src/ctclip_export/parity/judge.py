"""The verdict on one step of the parity check: which differences from the reference are allowed.

A step is any way of computing what the reference model computes. Codes are discrete, so a small
error becomes either nothing or another code. A code that differs is forgiven only where the
reference itself hesitated: where its best two similarities are closer than twice the error of the
similarity that was measured in that step. Any other flip fails the step, in every precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_client.results import Scores
from ctclip_export.parity.figures import code_margins, largest_change, least_cosine, spearman


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
class StepAnswer:
    """What one step, or the reference, says of one volume.

    codes (T, R, C) int32, None where a step does not show them; image_embedding (E,),
    logits (F, 2), probabilities (F,) float32.
    text_embedding: (2F, E) of the bank's sentences, None where a step has no text encoder.
    tokens: (T·R·C, W) float32 of unit length, what the code search saw, None where it is hidden.
    """

    codes: NDArray[np.int32] | None
    image_embedding: NDArray[np.float32]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    text_embedding: NDArray[np.float32] | None = None
    tokens: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        outputs: Mapping[str, NDArray[Any]],
        text_embedding: NDArray[np.float32] | None = None,
        tokens: NDArray[np.float32] | None = None,
    ) -> StepAnswer:
        """From the outputs of the vision and the findings model, by name, for one volume."""
        codes, embedding, logits, probabilities = (
            outputs[name][0] for name in ("CODES", "IMAGE_EMBEDDING", "LOGITS", "PROBABILITIES")
        )
        return cls(codes, embedding, logits, probabilities, text_embedding, tokens)

    @classmethod
    def of_scores(
        cls, scores: Scores, text_embedding: NDArray[np.float32] | None = None
    ) -> StepAnswer:
        """From what the ensemble answered, which keeps codes to itself."""
        found = scores.image_embedding, scores.logits, scores.probabilities
        return cls(None, *found, text_embedding)


@dataclass(frozen=True)
class StepVerdict:
    """One line of the parity check. `verdict`: PASS, FAIL or NOT RUN; `reason`: why not PASS."""

    step: str
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

    def as_json(self) -> dict[str, Any]:
        """As `ctclip parity --json` prints it; there the step's name is called `rung`."""
        fields = asdict(self)
        return {"rung": fields.pop("step"), **fields}


# The worst of all volumes counts. NumPy's minimum and maximum keep NaN; Python's would drop it, and
# with it the failure.
_WORST: dict[str, Callable[[list[float]], Any]] = {
    "codes_agree": np.min,
    "flipped_margin": np.max,
    "similarity_error": np.max,
    "cosine": np.min,
    "text_cosine": np.min,
    "logit_difference": np.max,
    "probability_difference": np.max,
    "spearman": np.min,
}


def judge(
    step: str,
    answers: Sequence[StepAnswer],
    references: Sequence[StepAnswer],
    bounds: Bounds,
    *,
    codebook: Tensor | None = None,
    similarity_error: float = 0.0,
) -> StepVerdict:
    """Compare a step's answers with the reference's, volume by volume; the worst counts.

    codebook: unit codes (W, Z); without it codes are not compared.
    similarity_error: largest |Δcosine| between a token and a code, of a step that hides its tokens;
    where it shows them, it is measured.
    """
    if not answers or len(answers) != len(references):
        reason = f"{len(answers)} answers for {len(references)} volumes"
        return StepVerdict(step, "FAIL", reason, len(answers))
    pairs = list(zip(answers, references, strict=True))
    broken = next((text for text in (_broken(*pair) for pair in pairs) if text), "")
    if broken:
        return StepVerdict(step, "FAIL", broken, len(answers))
    each = [_measure(got, reference, codebook) for got, reference in pairs]
    worst: dict[str, float | None] = {}
    for name, of in _WORST.items():
        known = [value for value in (measured[name] for measured in each) if value is not None]
        worst[name] = float(of(known)) if known else None
    if worst["similarity_error"] is None:
        worst["similarity_error"] = similarity_error
    found = StepVerdict(step, "PASS", "", len(answers), **worst)
    reason = _out_of_bounds(found, bounds)
    return replace(found, verdict="FAIL", reason=reason) if reason else found


def _measure(
    got: StepAnswer, reference: StepAnswer, codebook: Tensor | None
) -> dict[str, float | None]:
    ours, theirs = got.text_embedding, reference.text_embedding
    return {
        **_compare_codes(got, reference, codebook),
        "cosine": least_cosine(got.image_embedding, reference.image_embedding),
        "text_cosine": None if ours is None or theirs is None else least_cosine(ours, theirs),
        "logit_difference": float(np.abs(got.logits - reference.logits).max()),
        "probability_difference": float(np.abs(got.probabilities - reference.probabilities).max()),
        "spearman": spearman(got.probabilities, reference.probabilities),
    }


def _compare_codes(
    got: StepAnswer, reference: StepAnswer, codebook: Tensor | None
) -> dict[str, float | None]:
    """Share of codes that agree, the reference's largest margin where they do not, and the error of
    the similarity; None for what a step does not show.
    """
    found: dict[str, float | None] = {
        "codes_agree": None, "flipped_margin": 0.0, "similarity_error": None,
    }  # fmt: skip
    if codebook is None or reference.tokens is None:
        return found
    tokens = torch.from_numpy(reference.tokens)
    if got.tokens is not None:
        error = largest_change(torch.from_numpy(got.tokens), tokens, codebook)
        found["similarity_error"] = error
    if got.codes is not None and reference.codes is not None:
        flipped = got.codes != reference.codes
        found["codes_agree"] = 1.0 - float(flipped.mean())
        if flipped.any():
            margins = code_margins(tokens[torch.from_numpy(flipped.reshape(-1))], codebook)
            found["flipped_margin"] = float(margins.max())
    return found


def _broken(got: StepAnswer, reference: StepAnswer) -> str:
    for name in ("codes", "image_embedding", "text_embedding", "logits", "probabilities", "tokens"):
        ours, theirs = getattr(got, name), getattr(reference, name)
        if name in ("codes", "text_embedding", "tokens") and (ours is None or theirs is None):
            continue
        if ours.shape != theirs.shape:
            return f"{name}: shape {ours.shape}, expected {theirs.shape}"
        if ours.dtype != theirs.dtype:
            return f"{name}: {ours.dtype}, expected {theirs.dtype}"
        if not np.isfinite(ours).all():
            return f"{name}: NaN or infinite values"
    return ""


def _out_of_bounds(found: StepVerdict, bounds: Bounds) -> str:
    """What is out of bounds, in words. Every comparison is written so that NaN fails it."""
    share = 1.0 if found.codes_agree is None else found.codes_agree
    text_cosine = 1.0 if found.text_cosine is None else found.text_cosine
    margin, error = _number(found.flipped_margin), _number(found.similarity_error)
    cosine, probability = _number(found.cosine), _number(found.probability_difference)
    checks = (
        (
            margin <= 2 * error,
            f"a code differs where the reference's margin is {margin:.1e}, more than twice the "
            f"similarity's error of {error:.1e}",
        ),
        (share >= bounds.codes, f"codes agree {share:.3%}, expected {bounds.codes:.3%}"),
        (cosine >= bounds.cosine, f"cosine {cosine:.6f}, expected {bounds.cosine}"),
        (
            text_cosine >= bounds.cosine,
            f"cosine of a text {text_cosine:.6f}, expected {bounds.cosine}",
        ),
        (
            probability <= bounds.probability,
            f"|Δprobability| {probability:.1e}, allowed {bounds.probability:g}",
        ),
    )
    return "; ".join(text for good, text in checks if not good)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
