"""Encoders in fp16, bf16 and int8 against the reference model, before an export is placed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctclip_client.contract import TEXT_ENCODER, VISION
from ctclip_client.errors import InvalidInput
from ctclip_client.system.progress import Advance
from ctclip_export.model import CTViT, TextEncoder
from ctclip_export.parity.compare import Agreement, ParityError
from ctclip_export.parity.judge import BOUNDS, Bounds, StepAnswer, StepVerdict
from ctclip_export.parity.reference import Reference
from ctclip_export.parity.runtimes import OnnxRuntimeVision, VisionRuntime, cpu_runtime
from ctclip_export.precision.first_failing_part import first_part_to_fail, first_to_fail
from ctclip_export.precision.typed_twin import typed

Quantise = Callable[[Path, Collection[str]], None]
"""Write a graph with the products of the named parts of the trunk in int8."""
_NOT_THE_TWIN = "the graph, not its PyTorch twin"


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
    Raises: ParityError with what is out of bounds and the first part of the network that is.
    """
    reference.read(voxels)
    bounds = reference.bounds(precision)

    def verdict(other: Any) -> StepVerdict:
        return reference.judge(f"{precision} PyTorch", [reference.answer(other, voxels)], bounds)

    judged = verdict(twin)
    if judged.verdict != "PASS":
        part = first_part_to_fail(
            reference.model.vision, precision, lambda other: verdict(other).verdict == "PASS"
        )
        raise _out_of_bounds(VISION.name, judged.reason, part, precision)
    found = _agreements(judged, bounds)
    try:
        runtime_name, load, _ = cpu_runtime(precision)
    except InvalidInput:  # OpenVINO is optional: then the twin alone has judged
        embedding, norm, codes = twin(voxels)
        outputs = {"IMAGE_EMBEDDING": embedding, "IMAGE_NORM": norm, "CODES": codes}
        return found, {name: tensor.numpy() for name, tensor in outputs.items()}
    step = f"{precision} {runtime_name}"
    judged, graph_outputs = _judge_graph(step, load(path), [voxels.numpy()], reference, bounds)
    if judged.verdict != "PASS":
        raise _out_of_bounds(VISION.name, judged.reason, _NOT_THE_TWIN, precision)
    return found + _agreements(judged, bounds), graph_outputs


def check_int8_vision(
    path: Path,
    reference: Reference,
    volumes: Iterable[NDArray[np.float32]],
    quantise: Quantise,
    parts: list[str],
    *,
    advance: Advance = lambda _: None,
) -> tuple[list[Agreement], dict[str, NDArray[Any]]]:
    """Volumes (1, 1, D, H, W), others than the ranges were taken from, through reference and graph;
    the worst of them counts.

    parts: of the trunk, in the order of computation; `quantise` makes graphs of some of them when
    the first part that fails is looked for, in a file beside `path`.
    Returns the agreements and the graph's outputs for the first volume. Raises: ParityError with
    what is out of bounds and the first part of the network that is.
    """
    seen = []
    for voxels in volumes:
        reference.read(torch.from_numpy(voxels))
        seen.append(voxels)
        advance(1)
    bounds = reference.bounds("int8")

    def verdict(graph: Path) -> tuple[StepVerdict, dict[str, NDArray[Any]]]:
        return _judge_graph("int8 ONNX Runtime", OnnxRuntimeVision(graph), seen, reference, bounds)

    judged, outputs = verdict(path)
    if judged.verdict != "PASS":
        trial = path.with_name("trial.onnx")

        def holds(some: Collection[str]) -> bool:
            quantise(trial, some)
            return verdict(trial)[0].verdict == "PASS"

        part = first_to_fail(parts, holds)
        raise _out_of_bounds(VISION.name, judged.reason, part, "int8")
    return _agreements(judged, bounds), outputs


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
    expected, bound = model(ids, mask), BOUNDS[precision].cosine
    found: list[Agreement] = []

    def cosine(got: Tensor) -> float:
        return float((got * expected).sum(dim=-1).min())

    def keep(runtime: str, got: Tensor, first_part: Callable[[], str]) -> None:
        measured = cosine(got)
        if not measured >= bound:
            reason = f"cosine {measured:.6f}, expected {bound}"
            raise _out_of_bounds(TEXT_ENCODER.name, reason, first_part(), precision)
        name = f"{precision} {runtime}: 1 − cosine"
        found.append(Agreement(TEXT_ENCODER.name, name, 1 - measured, 1 - bound))

    def first_part() -> str:
        return first_part_to_fail(model, precision, lambda other: cosine(other(ids, mask)) >= bound)

    embeddings = twin(ids, mask)
    keep("PyTorch", embeddings, first_part)
    try:
        runtime, _, run_text = cpu_runtime(precision)
    except InvalidInput:
        return found, embeddings.numpy()
    embeddings = torch.from_numpy(run_text(path, *tokens))
    keep(runtime, embeddings, lambda: _NOT_THE_TWIN)
    return found, embeddings.numpy()


def _judge_graph(
    step: str,
    runtime: VisionRuntime,
    volumes: Sequence[NDArray[np.float32]],
    reference: Reference,
    bounds: Bounds,
) -> tuple[StepVerdict, dict[str, NDArray[Any]]]:
    """Run volumes that the reference has read, in its order; also the first one's outputs."""
    answers: list[StepAnswer] = []
    first: dict[str, NDArray[Any]] = {}
    for voxels in volumes:
        outputs, tokens = runtime.run(voxels)
        first = first or outputs
        scores = reference.scores(outputs["IMAGE_EMBEDDING"])
        answers.append(StepAnswer.of({**outputs, **scores}, tokens=tokens.numpy()))
    return reference.judge(step, answers, bounds), first


def _agreements(judged: StepVerdict, bounds: Bounds) -> list[Agreement]:
    """A passed verdict in the form that `provenance.json` keeps."""
    values = (
        ("codes that differ", 1 - (judged.codes_agree or 0), 1 - bounds.codes),
        ("margin where they do", judged.flipped_margin, 2 * (judged.similarity_error or 0)),
        ("1 − cosine", 1 - (judged.cosine or 0), 1 - bounds.cosine),
        ("|Δprobability|", judged.probability_difference, bounds.probability),
    )
    return [
        Agreement(VISION.name, f"{judged.step}: {quantity}", float(measured or 0), allowed)
        for quantity, measured, allowed in values
    ]


def _out_of_bounds(model: str, reason: str, part: str, precision: str) -> ParityError:
    return ParityError(
        f"parity: {model} in {precision}: {reason}. First part beyond: {part}.",
        "Nothing was placed. Export this checkpoint in a higher precision.",
    )
