"""The ladder's rungs for typed graphs at export: typed PyTorch twin, then the graph itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctclip_client.contract import TEXT_ENCODER, VISION, Geometry
from ctclip_export.model import CTViT, TextEncoder
from ctclip_export.model.precision import typed
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.blame import first_part_to_fail
from ctclip_export.parity.compare import Agreement, ParityError
from ctclip_export.parity.judge import BOUNDS, Bounds, Verdict, bounds_for, judge
from ctclip_export.parity.readings import Reference, VisionGraph, read_twin
from ctclip_export.phantom import chest_phantom
from ctclip_export.runtime import run_onnx

RUNS_ON_CPU = frozenset({"fp32", "fp16"})
"""ONNX Runtime's CPU provider has almost no bfloat16 kernels; such a graph is judged by its twin
here, and by the whole ladder wherever it can run."""


def typed_twin(model: nn.Module, precision: str, name: str) -> Any:
    """A typed copy of an encoder. Raises: ParityError naming the layer that does not fit."""
    try:
        return typed(model, precision)
    except OverflowError as error:
        raise ParityError(
            f"parity: {name}: {error}.", "Export in bf16, which has float32's range, or in fp32."
        ) from error


@torch.no_grad()
def check_typed_vision(
    path: Path, reference: Reference, twin: CTViT, geometry: Geometry, precision: str
) -> tuple[list[Agreement], dict[str, NDArray[Any]]]:
    """A phantom through reference, twin and graph.

    Returns the agreements and the outputs of the graph (of the twin where the graph cannot run).
    Raises: ParityError with what is out of bounds and the part of the network to blame.
    """
    scan = chest_phantom(geometry)
    voxels = preprocess(scan.voxels, scan.spacing_mm, scan.rescale, geometry)
    reference.read(voxels)
    slabs, rows, columns = twin.config.token_shape
    bounds = bounds_for(precision, slabs * rows * columns)

    def verdict(rung: str, other: Any) -> Verdict:
        reading, tokens = read_twin(other, voxels, reference.score)
        error = reference.similarity_error(0, tokens)
        return judge(rung, [reading], reference.readings, bounds, error)

    judged = verdict(f"{precision} PyTorch", twin)
    if judged.verdict != "PASS":
        part = first_part_to_fail(
            reference.model.vision, precision, lambda other: verdict("", other).verdict == "PASS"
        )
        raise _failed(VISION.name, judged.reason, part, precision)
    found = _agreements(judged, bounds)
    if precision not in RUNS_ON_CPU:
        embedding, norm, codes = twin(voxels)
        outputs = {"IMAGE_EMBEDDING": embedding, "IMAGE_NORM": norm, "CODES": codes}
        return found, {name: tensor.numpy() for name, tensor in outputs.items()}
    graph = VisionGraph(path)
    reading, tokens = graph.read(voxels.numpy(), reference.score)
    error = reference.similarity_error(0, tokens)
    judged = judge(f"{precision} ONNX", [reading], reference.readings, bounds, error)
    if judged.verdict != "PASS":
        raise _failed(VISION.name, judged.reason, "the graph, not its PyTorch twin", precision)
    outputs, _ = graph.run(voxels.numpy())
    return found + _agreements(judged, bounds), outputs


@torch.no_grad()
def check_typed_text(
    path: Path,
    model: TextEncoder,
    twin: TextEncoder,
    tokens: tuple[NDArray[np.int64], NDArray[np.int64]],
    precision: str,
) -> tuple[list[Agreement], NDArray[np.float32]]:
    """Token ids and mask (N, L) through reference, twin and graph.

    Returns the agreements and the embeddings (N, E) of the graph, or of the twin. Raises:
    ParityError.
    """
    ids, mask = (torch.from_numpy(array) for array in tokens)
    expected = model(ids, mask)

    def cosine(got: Tensor) -> float:
        return float((got * expected).sum(dim=-1).min())

    def holds(other: Callable[[Tensor, Tensor], Tensor]) -> bool:
        return cosine(other(ids, mask)) >= BOUNDS[precision].cosine

    embeddings = twin(ids, mask)
    name = f"{precision} PyTorch: 1 − cosine"
    allowed = 1 - BOUNDS[precision].cosine
    found = [Agreement(TEXT_ENCODER.name, name, 1 - cosine(embeddings), allowed)]
    if not holds(twin):
        part = first_part_to_fail(model, precision, holds)
        raise _failed(TEXT_ENCODER.name, f"cosine {cosine(embeddings):.6f}", part, precision)
    if precision in RUNS_ON_CPU:
        outputs = run_onnx(path, {"INPUT_IDS": tokens[0], "ATTENTION_MASK": tokens[1]})
        embeddings = torch.from_numpy(outputs["TEXT_EMBEDDING"])
        measured = cosine(embeddings)
        if not measured >= BOUNDS[precision].cosine:
            part = "the graph, not its PyTorch twin"
            raise _failed(TEXT_ENCODER.name, f"cosine {measured:.6f}", part, precision)
        name = f"{precision} ONNX: 1 − cosine"
        found.append(Agreement(TEXT_ENCODER.name, name, 1 - measured, allowed))
    return found, embeddings.numpy()


def _agreements(judged: Verdict, bounds: Bounds) -> list[Agreement]:
    values = (
        ("codes that differ", 1 - (judged.codes_agree or 0), 1 - bounds.codes),
        ("margin where they do", judged.flipped_margin, 2 * (judged.similarity_error or 0)),
        ("1 − cosine", 1 - (judged.cosine or 0), 1 - bounds.cosine),
        ("|Δprobability|", judged.probability_difference, bounds.probability),
    )
    return [
        Agreement(VISION.name, f"{judged.rung}: {quantity}", float(measured or 0), allowed)
        for quantity, measured, allowed in values
    ]


def _failed(model: str, reason: str, part: str, precision: str) -> ParityError:
    return ParityError(
        f"parity: {model} in {precision}: {reason}. To blame: {part}.",
        "Nothing was placed. Export this checkpoint in a higher precision.",
    )
