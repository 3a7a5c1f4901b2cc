"""Make a release's self-check: the reference's answer for a phantom, and the graphs' against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ctclip_client.contract import PREPROCESS, SCORE, TEXT_ENCODER, VISION, ZERO_SHOT, Geometry
from ctclip_client.doctor.phantom import small_phantom
from ctclip_client.errors import InvalidInput
from ctclip_client.release.self_check import SelfCheck, Tolerance
from ctclip_export.graphs.run import run_onnx, run_preprocess
from ctclip_export.model import CTCLIP
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.compare import Agreement, ParityError
from ctclip_export.parity.judge import bounds_for
from ctclip_export.parity.runtimes import ONNX_RUNTIME_PRECISIONS, text_runtime, vision_runtime
from ctclip_export.precision.choices import PRECISIONS, precision_of
from ctclip_export.text.tokens import Ids


@torch.no_grad()
def make_self_check(
    model: CTCLIP,
    geometry: Geometry,
    precision: str,
    prompts: Sequence[str],
    tokens: tuple[Ids, Ids],
) -> SelfCheck:
    """Ask the reference. The release's name is not known yet: `release` is empty.

    prompts: 2P sentences, P ≤ `contract.PAIRS_AT_ONCE`; tokens: their ids and mask (2P, L).
    """
    phantom = small_phantom()
    voxels = preprocess(phantom.voxels, phantom.spacing_mm, phantom.rescale, geometry)
    embedding, _, codes = model.vision(voxels)
    ids, mask = (torch.from_numpy(array) for array in tokens)
    logits, _ = model.score(embedding, model.text(ids, mask))
    inputs = phantom.tensors()
    return SelfCheck(
        release="",
        precision=precision,
        volume=inputs["VOLUME"],
        spacing=inputs["SPACING"],
        rescale=inputs["RESCALE"],
        prompts=tuple(prompts),
        image_embedding=embedding.numpy(),
        logits=logits.numpy(),
        tolerances={
            each: _tolerance(each, codes.numel(), float(model.temperature.exp()))
            for each in PRECISIONS
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


def check_graphs(
    check: SelfCheck, graphs: dict[str, Path], tokens: tuple[Ids, Ids]
) -> list[Agreement]:
    """What the exported graphs answer, on this machine; nothing where it has no runtime for them.

    graphs: model name -> file. Raises: ParityError where the self-check would be failed.
    """
    path, precision = graphs[VISION.name], precision_of(VISION, check.precision)
    voxels = run_preprocess(graphs[PREPROCESS.name], small_phantom())
    try:
        _, encode = text_runtime(precision_of(TEXT_ENCODER, check.precision))
        if precision in ONNX_RUNTIME_PRECISIONS:  # as it is: no tokens have to be made visible
            outputs = run_onnx(path, {"VOXELS": voxels})
        else:
            outputs, _ = vision_runtime(path, precision)[1].run(voxels)
    except InvalidInput:  # bf16 without OpenVINO, or on a CPU without bf16: whoever serves it asks
        return []
    image = outputs["IMAGE_EMBEDDING"]
    texts = encode(graphs[TEXT_ENCODER.name], *tokens)
    inputs = {"IMAGE_EMBEDDING": image, "TEXT_EMBEDDING": np.ascontiguousarray(texts)}
    scores = run_onnx(graphs[SCORE.name], inputs)
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
