"""The ladder's rung for an int8 graph at export: CTs that its ranges were not taken from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctclip_client.contract import VISION
from ctclip_client.system.progress import Advance
from ctclip_export.parity.compare import Agreement
from ctclip_export.parity.judge import Verdict, bounds_for
from ctclip_export.parity.judge_graph import agreements, judge_graph, out_of_bounds
from ctclip_export.parity.readings import Reference
from ctclip_export.parity.runtimes import OnnxRuntimeVision
from ctclip_export.precision.first_failing_part import first_to_fail

PRECISION = "int8"

Quantise = Callable[[Path, Collection[str]], None]
"""Write a graph with the products of the named parts of the trunk in int8."""


@torch.no_grad()
def check_quantised_vision(
    path: Path,
    reference: Reference,
    volumes: Iterable[NDArray[np.float32]],
    quantise: Quantise,
    parts: list[str],
    *,
    advance: Advance = lambda _: None,
) -> tuple[list[Agreement], dict[str, NDArray[Any]]]:
    """Volumes (1, 1, D, H, W) through the reference and the graph; the worst of them counts.

    parts: of the trunk, in the order of computation; `quantise` makes graphs of some of them when
    the part to blame is looked for, in a file beside `path`.
    Returns the agreements and the graph's outputs for the first volume. Raises: ParityError with
    what is out of bounds and the part of the network to blame.
    """
    seen = []
    for voxels in volumes:
        reference.read(torch.from_numpy(voxels))
        seen.append(voxels)
        advance(1)
    slabs, rows, columns = reference.model.config.vision.token_shape
    bounds = bounds_for(PRECISION, slabs * rows * columns)

    def verdict(graph: Path) -> tuple[Verdict, dict[str, NDArray[Any]]]:
        rung = f"{PRECISION} ONNX Runtime"
        return judge_graph(rung, OnnxRuntimeVision(graph), seen, reference, bounds)

    judged, outputs = verdict(path)
    if judged.verdict != "PASS":
        trial = path.with_name("trial.onnx")

        def holds(some: Collection[str]) -> bool:
            quantise(trial, some)
            return verdict(trial)[0].verdict == "PASS"

        part = first_to_fail(parts, holds)
        raise out_of_bounds(VISION.name, judged.reason, part, PRECISION)
    return agreements(judged, bounds), outputs
