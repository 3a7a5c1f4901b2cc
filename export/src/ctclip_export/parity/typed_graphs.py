"""The ladder's rungs for typed graphs at export: typed PyTorch twin, then the graph itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctclip_client.contract import TEXT_ENCODER, VISION
from ctclip_client.errors import InvalidInput
from ctclip_export.model import CTViT, TextEncoder
from ctclip_export.parity.compare import Agreement, ParityError
from ctclip_export.parity.judge import BOUNDS, Verdict, bounds_for, judge
from ctclip_export.parity.judge_graph import agreements, judge_graph, out_of_bounds
from ctclip_export.parity.readings import Reference, read_twin
from ctclip_export.parity.runtimes import text_runtime, vision_runtime
from ctclip_export.precision.first_failing_part import first_part_to_fail
from ctclip_export.precision.typed_twin import typed


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
    path: Path, reference: Reference, twin: CTViT, voxels: Tensor, precision: str
) -> tuple[list[Agreement], dict[str, NDArray[Any]]]:
    """One volume (1, 1, D, H, W) through reference, twin and graph.

    Returns the agreements and the outputs of the graph (of the twin where the graph cannot run).
    Raises: ParityError with what is out of bounds and the part of the network to blame.
    """
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
        raise out_of_bounds(VISION.name, judged.reason, part, precision)
    found = agreements(judged, bounds)
    try:
        runtime_name, runtime = vision_runtime(path, precision)
    except InvalidInput:  # OpenVINO is optional: then the twin alone has judged
        embedding, norm, codes = twin(voxels)
        outputs = {"IMAGE_EMBEDDING": embedding, "IMAGE_NORM": norm, "CODES": codes}
        return found, {name: tensor.numpy() for name, tensor in outputs.items()}
    rung = f"{precision} {runtime_name}"
    judged, graph_outputs = judge_graph(rung, runtime, [voxels.numpy()], reference, bounds)
    if judged.verdict != "PASS":
        part = "the graph, not its PyTorch twin"
        raise out_of_bounds(VISION.name, judged.reason, part, precision)
    return found + agreements(judged, bounds), graph_outputs


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
        reason = f"cosine {cosine(embeddings):.6f}, expected {BOUNDS[precision].cosine}"
        raise out_of_bounds(TEXT_ENCODER.name, reason, part, precision)
    try:
        runtime_name, run_text = text_runtime(precision)
    except InvalidInput:
        return found, embeddings.numpy()
    embeddings = torch.from_numpy(run_text(path, *tokens))
    measured = cosine(embeddings)
    if not measured >= BOUNDS[precision].cosine:
        part = "the graph, not its PyTorch twin"
        raise out_of_bounds(TEXT_ENCODER.name, f"cosine {measured:.6f}", part, precision)
    name = f"{precision} {runtime_name}: 1 − cosine"
    found.append(Agreement(TEXT_ENCODER.name, name, 1 - measured, allowed))
    return found, embeddings.numpy()
