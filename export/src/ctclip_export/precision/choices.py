"""What `--precision` may be, and what it means for each model; importable without torch."""

from __future__ import annotations

from ctclip_client.contract import TEXT_ENCODER, VISION, Model

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def precision_of(model: Model, release_precision: str) -> str:
    """What one model of a release computes in.

    int8 is for the vision encoder: the text encoder's work is next to nothing, its embeddings of
    the findings are made once, at export, and an error of theirs would be in every score.
    """
    if model == VISION:
        return release_precision
    if model == TEXT_ENCODER and release_precision != "int8":
        return release_precision
    return "fp32"
