"""Make a release's self-check: the reference's answer for a phantom, and the graphs' against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ctclip_client.contract import ZERO_SHOT
from ctclip_client.doctor.phantom import small_phantom
from ctclip_client.release.self_check import SelfCheck, Tolerance
from ctclip_export.graphs.run import run_onnx
from ctclip_export.model import CTCLIP
from ctclip_export.parity.compare import Agreement, ParityError
from ctclip_export.parity.judge import bounds_for
from ctclip_export.precision.choices import PRECISIONS


@torch.no_grad()
def make_self_check(
    model: CTCLIP,
    precision: str,
    prompts: Sequence[str],
    image: torch.Tensor,
    texts: torch.Tensor,
) -> SelfCheck:
    """Write down what the reference answers. The release's name is not known yet: it is empty.

    prompts: 2P sentences, P ≤ `contract.PAIRS_AT_ONCE`. image: the reference's embedding (1, E) of
    `small_phantom()`; texts: its embeddings (2P, E) of the prompts.
    """
    logits, _ = model.score(image, texts)
    inputs = small_phantom().tensors()
    tokens = math.prod(model.config.vision.token_shape)
    return SelfCheck(
        release="",
        precision=precision,
        volume=inputs["VOLUME"],
        spacing=inputs["SPACING"],
        rescale=inputs["RESCALE"],
        prompts=tuple(prompts),
        image_embedding=image.numpy(),
        logits=logits.numpy(),
        tolerances={
            each: _tolerance(each, tokens, float(model.temperature.exp())) for each in PRECISIONS
        },
    )


def _tolerance(precision: str, tokens: int, scale: float) -> Tolerance:
    """The judge's bounds for a grid of so many codes, and what follows from them for a logit.

    A logit is scale · ⟨image, text⟩. Where two vectors of length 1 have the cosine c they are
    √(2 − 2c) apart, and no product with a vector of length 1 moves by more; image and text may both
    be off by that.
    """
    bounds = bounds_for(precision, tokens)
    return Tolerance(
        cosine=bounds.cosine,
        probability=bounds.probability,
        logit=scale * 2 * math.sqrt(2 - 2 * bounds.cosine),
    )


def check_answer(
    check: SelfCheck, score: Path, image: NDArray[np.float32], texts: NDArray[np.float32]
) -> list[Agreement]:
    """Score what the encoders' graphs answered on this machine, and compare.

    score: the graph. image (1, E), texts (2P, E): embeddings of the self-check's volume and
    prompts. Raises: ParityError where the self-check would be failed.
    """
    inputs = {"IMAGE_EMBEDDING": image, "TEXT_EMBEDDING": np.ascontiguousarray(texts)}
    scores = run_onnx(score, inputs)
    found = check.compare({"IMAGE_EMBEDDING": image, **scores}, check.precision)
    if found.problems:
        raise ParityError(
            f"parity: self-check on a phantom in {check.precision}: {'; '.join(found.problems)}.",
            "Nothing was placed. Export this checkpoint in a higher precision.",
        )
    allowed = check.tolerances[check.precision]
    return [
        Agreement(ZERO_SHOT.name, f"self-check: {quantity}", measured, bound)
        for quantity, measured, bound in (
            ("1 − cosine", 1 - found.cosine, 1 - allowed.cosine),
            ("|Δlogit|", found.logit, allowed.logit),
            ("|Δprobability|", found.probability, allowed.probability),
        )
    ]
