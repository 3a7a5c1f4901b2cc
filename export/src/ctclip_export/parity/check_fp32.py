"""Every float32 graph against the reference model, model by model, before an export is placed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctclip_client.contract import (
    CLASSFINE,
    FINDINGS,
    GPU_GRAPH,
    PREPROCESS,
    RELEVANCE,
    SCORE,
    TEXT_ENCODER,
    VISION,
    Geometry,
)
from ctclip_export.graphs.run import run_onnx
from ctclip_export.model import CTCLIP, Classifier, CTViT, VisionStages
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.compare import Agreement, Bound, ParityError, compare
from ctclip_export.samples.phantom import chest_phantom

# Two orders of float32 operations on numbers of size 1 differ by about 1e-6; a wrong epsilon, GELU
# or padding by 1e-3 and more. The bounds stand between.
EMBEDDING_BOUND = Bound(1e-5)
NORM_BOUND = Bound(0.0, relative=1e-4)
LOGIT_BOUND = Bound(1e-4, relative=1e-5)
PROBABILITY_BOUND = Bound(1e-5)
VOXELS_BOUND = Bound(2e-4)
RELEVANCE_BOUND = Bound(1e-6, relative=1e-4)
SUM_BOUND = Bound(1e-3)
TIE_MARGIN = 2e-5
"""A code may differ only where the reference's best two similarities are this close. float32 in two
orders differs by up to 4.9e-6 there after eight layers (16 cores of a Xeon; 2e-6 on two cores of an
EPYC), four times less; one token in a thousand has so small a margin. TF32 differs by 1e-3."""


def check_preprocess(path: Path, gpu_path: Path, geometry: Geometry) -> list[Agreement]:
    """A phantom through both forms of the graph and through the reference. Raises: ParityError."""
    scan = chest_phantom(geometry)
    expected = preprocess(scan.voxels, scan.spacing_mm, scan.rescale, geometry).numpy()
    found = []
    for each, quantity in ((path, "VOXELS"), (gpu_path, f"VOXELS of {GPU_GRAPH}")):
        got = {quantity: run_onnx(each, scan.tensors())["VOXELS"]}
        found += compare(PREPROCESS.name, got, {quantity: expected}, {quantity: VOXELS_BOUND})
    return found


@torch.no_grad()
def check_vision(
    path: Path, model: CTViT, volume: torch.Tensor, stages: VisionStages
) -> tuple[list[Agreement], dict[str, NDArray[Any]]]:
    """One volume (1, 1, D, H, W), of which the reference has said `stages`, through the graph.

    Returns the agreements and the graph's outputs. Raises: ParityError.
    """
    got = run_onnx(path, {"VOXELS": volume.numpy()})
    tokens = model.to_grid(stages.temporal_tokens)
    flips = _forgiven_flips(model, got, stages.codes, tokens)
    # What follows from the codes is compared for the codes that the graph chose.
    codes = torch.from_numpy(got["CODES"]) if flips else stages.codes
    embedding, norm = model.project(torch.nn.functional.embedding(codes, model.codebook))
    expected = {
        "IMAGE_EMBEDDING": embedding.numpy(), "IMAGE_NORM": norm.numpy(), "CODES": codes.numpy(),
    }  # fmt: skip
    bounds = {"IMAGE_EMBEDDING": EMBEDDING_BOUND, "IMAGE_NORM": NORM_BOUND, "CODES": Bound(0)}
    found = compare(VISION.name, got, expected, bounds)
    cosine = float((torch.from_numpy(got["IMAGE_EMBEDDING"]) * stages.embedding).sum())
    found.append(Agreement(VISION.name, "1 − cosine of the embedding", 1 - cosine, 1e-4))
    if not cosine >= 1 - 1e-4:
        raise ParityError(
            f"parity: {VISION.name}: cosine of the embedding with the reference is {cosine:.6f}, "
            "expected at least 0.9999.",
            "Nothing was placed. Report it with the versions of torch, onnx and onnxruntime.",
        )
    return found, got


def _forgiven_flips(
    model: CTViT, got: dict[str, NDArray[Any]], codes: torch.Tensor, tokens: torch.Tensor
) -> int:
    """How many codes differ; every one of them must be a tie in the reference."""
    if got["CODES"].shape != tuple(codes.shape):
        return 0  # compare() names the shapes
    different = torch.from_numpy(got["CODES"]) != codes  # (B, T, R, C)
    if not different.any():
        return 0
    best = model.similarities(tokens[different]).topk(2, dim=-1).values  # (flips, 2)
    margin = float((best[:, 0] - best[:, 1]).max())
    if margin > TIE_MARGIN:
        raise ParityError(
            f"parity: {VISION.name}: {int(different.sum())} of {codes.numel()} codes differ, and "
            f"not by ties: the reference prefers its own by up to {margin:.2e}, a tie is "
            f"{TIE_MARGIN:.0e}.",
            "Nothing was placed. Report it with the versions of torch, onnx and onnxruntime.",
        )
    return int(different.sum())


@torch.no_grad()
def check_text(
    path: Path, model: CTCLIP, ids: NDArray[np.int64], mask: NDArray[np.int64]
) -> tuple[list[Agreement], NDArray[np.float32]]:
    """Token ids (N, L) through both; returns the agreements and the embeddings (N, E) of the graph.

    The reference sees every text alone and without padding. Raises: ParityError.
    """
    got: list[NDArray[np.float32]] = []
    for start in range(0, len(ids), TEXT_ENCODER.max_batch_size):
        rows = slice(start, start + TEXT_ENCODER.max_batch_size)
        outputs = run_onnx(path, {"INPUT_IDS": ids[rows], "ATTENTION_MASK": mask[rows]})
        got.append(outputs["TEXT_EMBEDDING"])
    expected = []
    for row, kept in zip(torch.from_numpy(ids), torch.from_numpy(mask), strict=True):
        length = int(kept.sum())
        expected.append(model.text(row[None, :length], kept[None, :length]))
    embeddings = np.concatenate(got)
    found = compare(
        TEXT_ENCODER.name,
        {"TEXT_EMBEDDING": embeddings},
        {"TEXT_EMBEDDING": torch.cat(expected).numpy()},
        {"TEXT_EMBEDDING": EMBEDDING_BOUND},
    )
    return found, embeddings


@torch.no_grad()
def check_scores(
    score: Path,
    findings: Path,
    model: CTCLIP,
    image_embedding: NDArray[np.float32],
    text_embedding: NDArray[np.float32],
) -> list[Agreement]:
    """Both scoring graphs on one and on several volumes. Raises: ParityError."""
    random = np.random.default_rng(0)
    others = random.standard_normal((2, image_embedding.shape[1])).astype(np.float32)
    others /= np.linalg.norm(others, axis=-1, keepdims=True)
    bounds = {"LOGITS": LOGIT_BOUND, "PROBABILITIES": PROBABILITY_BOUND}
    found: list[Agreement] = []
    for images in (image_embedding, np.concatenate([image_embedding, others])):
        logits, probabilities = model.score(
            torch.from_numpy(images), torch.from_numpy(text_embedding)
        )
        expected = {"LOGITS": logits.numpy(), "PROBABILITIES": probabilities.numpy()}
        both = {"IMAGE_EMBEDDING": images, "TEXT_EMBEDDING": text_embedding}
        found += compare(SCORE.name, run_onnx(score, both), expected, bounds)
        only = {"IMAGE_EMBEDDING": images}
        found += compare(FINDINGS.name, run_onnx(findings, only), expected, bounds)
    return found


@torch.no_grad()
def check_relevance(
    path: Path,
    model: CTCLIP,
    vision_outputs: Mapping[str, NDArray[Any]],
    text_embedding: NDArray[np.float32],
) -> list[Agreement]:
    """Maps against the same sum in PyTorch, and their sums against the logit differences.

    Raises: ParityError.
    """
    codes, norm = (torch.from_numpy(vision_outputs[name]) for name in ("CODES", "IMAGE_NORM"))
    text = torch.from_numpy(text_embedding)
    got = run_onnx(path, {name: vision_outputs[name] for name in ("CODES", "IMAGE_NORM")})
    expected = {"RELEVANCE": model.relevance(codes, norm, text).numpy()}
    found = compare(RELEVANCE.name, got, expected, {"RELEVANCE": RELEVANCE_BOUND})
    logits, _ = model.score(torch.from_numpy(vision_outputs["IMAGE_EMBEDDING"]), text)
    sums = got["RELEVANCE"].sum(axis=(2, 3, 4), dtype=np.float64).astype(np.float32)
    name = "sum of RELEVANCE − logit difference"
    differences = (logits[..., 0] - logits[..., 1]).numpy()
    found += compare(RELEVANCE.name, {name: sums}, {name: differences}, {name: SUM_BOUND})
    return found


@torch.no_grad()
def check_classfine(
    path: Path, classifier: Classifier, image_embedding: NDArray[np.float32]
) -> list[Agreement]:
    """A trained head on one and on several embeddings. Raises: ParityError."""
    others = np.concatenate([image_embedding, -image_embedding, image_embedding[:, ::-1]])
    found: list[Agreement] = []
    for images in (image_embedding, others):
        got = run_onnx(path, {"IMAGE_EMBEDDING": images})
        expected = {"PROBABILITIES": classifier(torch.from_numpy(images.copy())).numpy()}
        found += compare(CLASSFINE.name, got, expected, {"PROBABILITIES": PROBABILITY_BOUND})
    return found
