"""One rung of the ladder at export: a vision graph in a runtime, judged against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import VISION
from ctclip_export.parity.compare import Agreement, ParityError
from ctclip_export.parity.judge import Bounds, Reading, Verdict, judge
from ctclip_export.parity.readings import Reference
from ctclip_export.parity.runtimes import VisionRuntime, reading_of


def judge_graph(
    rung: str,
    runtime: VisionRuntime,
    volumes: Sequence[NDArray[np.float32]],
    reference: Reference,
    bounds: Bounds,
) -> tuple[Verdict, dict[str, NDArray[Any]]]:
    """Run volumes (1, 1, D, H, W) that the reference has read, in its order; judge the worst.

    Returns the verdict, and the graph's outputs for the first volume.
    """
    readings: list[Reading] = []
    errors: list[float] = []
    first: dict[str, NDArray[Any]] = {}
    for index, voxels in enumerate(volumes):
        outputs, tokens = runtime.run(voxels)
        first = first or outputs
        readings.append(reading_of(outputs, reference.score))
        errors.append(reference.similarity_error(index, tokens))
    error = float(np.max(errors))
    return judge(rung, readings, reference.readings, bounds, error), first


def agreements(judged: Verdict, bounds: Bounds) -> list[Agreement]:
    """A passed verdict in the form that `provenance.json` keeps."""
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


def out_of_bounds(model: str, reason: str, part: str, precision: str) -> ParityError:
    """The error that names what is out of bounds, and which part of the network is to blame."""
    return ParityError(
        f"parity: {model} in {precision}: {reason}. To blame: {part}.",
        "Nothing was placed. Export this checkpoint in a higher precision.",
    )
