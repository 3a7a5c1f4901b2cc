"""Compare a release's graphs with the reference model, each by the means of its precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctclip_client.contract import (
    CLASSFINE,
    FINDINGS,
    PAIRS_AT_ONCE,
    PREPROCESS,
    RELEVANCE,
    SCORE,
    TEXT_ENCODER,
    Model,
)
from ctclip_client.doctor.phantom import small_phantom
from ctclip_client.errors import InvalidInput
from ctclip_client.release.self_check import SelfCheck
from ctclip_client.system.progress import Advance
from ctclip_export.graphs.run import run_onnx, run_preprocess
from ctclip_export.model import CTViT, TextEncoder, VisionStages
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.check_fp32 import (
    VOXELS_BOUND,
    check_classfine,
    check_relevance,
    check_scores,
    check_text,
    check_vision,
)
from ctclip_export.parity.check_low_precision import (
    check_int8_vision,
    check_typed_text,
    check_typed_vision,
)
from ctclip_export.parity.compare import Agreement, compare
from ctclip_export.parity.reference import Reference
from ctclip_export.parity.runtimes import require_bfloat16
from ctclip_export.parity.self_check import check_answer, make_self_check
from ctclip_export.precision.calibration import Voxels
from ctclip_export.precision.choices import precision_of
from ctclip_export.repository.make import QuantisedVision, graph_file
from ctclip_export.repository.source import ExportSource

Outputs = dict[str, NDArray[Any]]
"""What the vision graph answers for one volume, by name."""

ODD_TEXTS = ("", "A 5 mm nodule in the right lower lobe; no effusion!", "effusion " * 600)
"""Checked beside the prompts: nothing, punctuation and digits, and more than fits."""


@dataclass(frozen=True)
class PhantomReference:
    """What the reference says of the self-check's phantom, with which the vision graph is checked,
    too, and of the findings' sentences: one pass for all of them.

    voxels: (1, 1, D, H, W). texts: embeddings (2F, E).
    """

    voxels: torch.Tensor
    vision: VisionStages
    texts: torch.Tensor


@torch.no_grad()
def read_phantom(source: ExportSource) -> PhantomReference:
    """Ask the reference."""
    phantom = small_phantom()
    voxels = preprocess(phantom.voxels, phantom.spacing_mm, phantom.rescale, source.geometry)
    ids, mask = (torch.from_numpy(array) for array in source.tokenised(source.sentences))
    return PhantomReference(
        voxels, source.model.vision.stages(voxels), source.model.text(ids, mask)
    )


def check_text_graph(
    source: ExportSource, path: Path, twin: TextEncoder
) -> tuple[list[Agreement], NDArray[np.float32]]:
    """Prompts and odd texts. Returns the agreements, and the findings' embeddings (2F, E) by the
    graph (by `twin`, from which it was traced, where nothing here can run it). Raises: ParityError.
    """
    model, precision = source.model, precision_of(TEXT_ENCODER, source.precision)

    def check(texts: list[str]) -> tuple[list[Agreement], NDArray[np.float32]]:
        tokens = source.tokenised(texts)
        if precision == "fp32":
            return check_text(path, model, *tokens)
        return check_typed_text(path, model.text, twin, tokens, precision)

    # Odd texts apart: the longest text decides what all of its batch costs.
    (found, bank), (odd, _) = check(source.sentences), check(list(ODD_TEXTS))
    return found + odd, bank


def check_vision_graph(
    source: ExportSource, path: Path, twin: CTViT, phantom: PhantomReference
) -> tuple[list[Agreement], Outputs]:
    """The phantom. Returns the agreements, and the graph's outputs (those of `twin`, from which it
    was traced, where nothing here can run it). Raises: ParityError.
    """
    if source.precision == "fp32":
        return check_vision(path, source.model.vision, phantom.voxels, phantom.vision)
    reference = Reference(source.model, phantom.texts)
    return check_typed_vision(path, reference, twin, phantom.voxels, source.precision)


def check_int8_graph(
    source: ExportSource,
    made: QuantisedVision,
    judging: Voxels,
    phantom: PhantomReference,
    advance: Advance,
) -> tuple[list[Agreement], Outputs]:
    """CTs that the ranges were not taken from. Returns the agreements, and the graph's outputs for
    the phantom. Raises: ParityError.
    """
    found, _ = check_int8_vision(
        made.file, Reference(source.model, phantom.texts), judging,
        made.quantiser.write, made.quantiser.parts, advance=advance,
    )  # fmt: skip
    return found, run_onnx(made.file, {"VOXELS": phantom.voxels.numpy()})


def check_score_graphs(
    source: ExportSource, files: Mapping[Model, Path], image: Outputs, bank: NDArray[np.float32]
) -> list[Agreement]:
    """All graphs behind the encoders, on what those answered. Raises: ParityError."""
    embedding = image["IMAGE_EMBEDDING"]
    found = check_scores(files[SCORE], files[FINDINGS], source.model, embedding, bank)
    found += check_relevance(files[RELEVANCE], source.model, image, bank)
    if source.checkpoint.classifier is not None:
        found += check_classfine(files[CLASSFINE], source.checkpoint.classifier, embedding)
    return found


def check_self_check(
    source: ExportSource,
    staging: Path,
    phantom: PhantomReference,
    image: Outputs,
    bank: NDArray[np.float32],
) -> tuple[list[Agreement], SelfCheck]:
    """The reference's answer for the self-check, and the graphs' against it. Raises: ParityError.

    image, bank: what the encoders' graphs answered. The release's name is not known yet: it is
    empty in the self-check.
    """
    asked = slice(2 * PAIRS_AT_ONCE)
    check = make_self_check(
        source.model, source.precision, source.sentences[asked],
        phantom.vision.embedding, phantom.texts[asked],
    )  # fmt: skip
    voxels = run_preprocess(graph_file(staging, PREPROCESS), small_phantom())
    found = compare(
        PREPROCESS.name, {"VOXELS": voxels}, {"VOXELS": phantom.voxels.numpy()},
        {"VOXELS": VOXELS_BOUND},
    )  # fmt: skip
    if source.precision == "bf16":
        try:
            require_bfloat16()
        except InvalidInput:  # then the twins have answered, not the graphs: whoever serves it asks
            return found, check
    score = graph_file(staging, SCORE)
    return found + check_answer(check, score, image["IMAGE_EMBEDDING"], bank[asked]), check
