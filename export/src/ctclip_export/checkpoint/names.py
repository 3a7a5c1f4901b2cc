"""Every tensor of an upstream state dict: its shape, and where it goes in our model.

A new variant of the model that only renames or adds tensors is described here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ctclip_client.errors import InvalidInput
from ctclip_export.model import ModelConfig, TextConfig, VisionConfig

VISION = "visual_transformer."
TEXT = "text_transformer."
POSITION_IDS = f"{TEXT}embeddings.position_ids"
"""Old transformers versions stored this range of integers: the one tensor that may come or go."""
CODEBOOK = f"{VISION}vq._codebook.embed"
INITTED = f"{VISION}vq._codebook.initted"
"""0 until the codebook's first batch, which upstream then makes it of (vector-quantize-pytorch)."""


class Slot(NamedTuple):
    """One tensor of the file. `ours` is None for what serving does not need."""

    theirs: str
    shape: tuple[int, ...]
    ours: str | None


def slots(config: ModelConfig) -> dict[str, Slot]:
    """All tensors that a checkpoint of these sizes holds, by upstream's name."""
    found = [*_joint(config), *_vision(config.vision), *_text(config.text)]
    return {slot.theirs: slot for slot in found}


def _joint(config: ModelConfig) -> Iterator[Slot]:
    vision, text = config.vision, config.text
    _, rows, columns = vision.token_shape
    image = (vision.embedding_size, rows * columns * vision.width)
    words = (vision.embedding_size, text.width)
    yield Slot("temperature", (), "temperature")
    yield Slot("to_text_latent.weight", words, "text.projection.weight")
    yield Slot("to_visual_latent.weight", image, "vision.projection.weight")
    yield Slot("to_text_latent_extra.weight", words, None)
    yield Slot("to_visual_latent_extra.weight", image, None)


def _vision(config: VisionConfig) -> Iterator[Slot]:
    width, patch = config.width, config.patch_volume
    frame = patch // config.patch_shape[0]
    bias = f"{VISION}spatial_rel_pos_bias.net."
    yield from _affine(f"{bias}0.0", (width, 2), "vision.position_bias.first")
    yield from _affine(f"{bias}1.0", (width, width), "vision.position_bias.second")
    yield from _affine(f"{bias}2", (config.heads, width), "vision.position_bias.to_heads")
    yield from _affine(f"{VISION}to_patch_emb_first_frame.1", (frame,), None)
    yield from _affine(f"{VISION}to_patch_emb_first_frame.2", (width, frame), None)
    yield from _affine(f"{VISION}to_patch_emb_first_frame.3", (width,), None)
    yield from _affine(f"{VISION}to_patch_emb.1", (patch,), "vision.patch_norm")
    yield from _affine(f"{VISION}to_patch_emb.2", (width, patch), "vision.patch_projection")
    yield from _affine(f"{VISION}to_patch_emb.3", (width,), "vision.token_norm")
    for theirs, ours, layers in (
        ("enc_spatial_transformer", "spatial", config.spatial_layers),
        ("enc_temporal_transformer", "temporal", config.temporal_layers),
    ):
        for layer in range(layers):
            yield from _block(
                f"{VISION}{theirs}.layers.{layer}.", f"vision.{ours}.blocks.{layer}.", config
            )
        yield from _gamma_beta(f"{VISION}{theirs}.norm_out", width, f"vision.{ours}.norm")
    yield Slot(INITTED, (1,), None)
    yield Slot(f"{VISION}vq._codebook.cluster_size", (1, config.codebook_size), None)
    yield Slot(CODEBOOK, (1, config.codebook_size, width), "vision.codebook")
    yield from _affine(f"{VISION}to_pixels_first_frame.0", (frame, width), None)
    yield from _affine(f"{VISION}to_pixels.0", (patch, width), None)


def _block(theirs: str, ours: str, config: VisionConfig) -> Iterator[Slot]:
    width, heads, head_width, hidden = config.width, config.heads, config.head_width, config.hidden
    inner = heads * head_width
    yield Slot(f"{theirs}0.dsconv.weight", (width, 1, 3, 3, 3), f"{ours}token_conv.conv.weight")
    yield Slot(f"{theirs}0.dsconv.bias", (width,), f"{ours}token_conv.conv.bias")
    yield Slot(f"{theirs}1.null_kv", (heads, 0, head_width), None)
    yield Slot(f"{theirs}1.q_scale", (head_width,), f"{ours}attention.q_scale")
    yield Slot(f"{theirs}1.k_scale", (head_width,), f"{ours}attention.k_scale")
    yield from _gamma_beta(f"{theirs}1.norm", width, f"{ours}attention.norm")
    yield from _gamma_beta(f"{theirs}1.context_norm", width, None)
    yield Slot(f"{theirs}1.to_q.weight", (inner, width), f"{ours}attention.to_q.weight")
    yield Slot(f"{theirs}1.to_kv.weight", (2 * inner, width), f"{ours}attention.to_kv.weight")
    yield Slot(f"{theirs}1.to_out.weight", (width, inner), f"{ours}attention.to_out.weight")
    yield from _affine(f"{theirs}3.0", (width,), f"{ours}feed_forward.norm")
    yield Slot(f"{theirs}3.1.weight", (2 * hidden, width), f"{ours}feed_forward.to_hidden.weight")
    yield Slot(f"{theirs}3.4.weight", (width, hidden), f"{ours}feed_forward.to_out.weight")


def _text(config: TextConfig) -> Iterator[Slot]:
    width = config.width
    theirs, ours = f"{TEXT}embeddings.", "text.embeddings."
    for name, own, rows in (
        ("word", "words", config.vocabulary_size),
        ("position", "positions", config.positions),
        ("token_type", "segments", config.segment_types),
    ):
        yield Slot(f"{theirs}{name}_embeddings.weight", (rows, width), f"{ours}{own}.weight")
    yield from _affine(f"{theirs}LayerNorm", (width,), f"{ours}norm")
    square = (width, width)
    for layer in range(config.layers):
        theirs, ours = f"{TEXT}encoder.layer.{layer}.", f"text.layers.{layer}."
        for name in ("query", "key", "value"):
            yield from _affine(f"{theirs}attention.self.{name}", square, f"{ours}{name}")
        yield from _affine(f"{theirs}attention.output.dense", square, f"{ours}attention_out")
        yield from _affine(f"{theirs}attention.output.LayerNorm", (width,), f"{ours}attention_norm")
        yield from _affine(
            f"{theirs}intermediate.dense", (config.hidden, width), f"{ours}to_hidden"
        )
        yield from _affine(f"{theirs}output.dense", (width, config.hidden), f"{ours}hidden_out")
        yield from _affine(f"{theirs}output.LayerNorm", (width,), f"{ours}hidden_norm")
    yield from _affine(f"{TEXT}pooler.dense", square, None)


def _affine(theirs: str, shape: tuple[int, ...], ours: str | None) -> Iterator[Slot]:
    yield Slot(f"{theirs}.weight", shape, ours and f"{ours}.weight")
    yield Slot(f"{theirs}.bias", shape[:1], ours and f"{ours}.bias")


def _gamma_beta(theirs: str, width: int, ours: str | None) -> Iterator[Slot]:
    yield Slot(f"{theirs}.gamma", (width,), ours and f"{ours}.weight")
    yield Slot(f"{theirs}.beta", (width,), ours and f"{ours}.bias")


def vision_config(state: Mapping[str, Tensor], volume_shape: tuple[int, int, int]) -> VisionConfig:
    """Read CTViT's sizes off the shapes; the volume's shape is not among them and must be given."""
    width, patch = _shape(state, f"{VISION}to_patch_emb.2.weight", 2)
    (frame,) = _shape(state, f"{VISION}to_patch_emb_first_frame.1.weight", 1)
    heads, _ = _shape(state, f"{VISION}spatial_rel_pos_bias.net.2.weight", 2)
    block = f"{VISION}enc_spatial_transformer.layers.0."
    (head_width,) = _shape(state, f"{block}1.q_scale", 1)
    _, hidden = _shape(state, f"{block}3.4.weight", 2)
    _, codebook_size, _ = _shape(state, CODEBOOK, 3)
    embedding_size, _ = _shape(state, "to_visual_latent.weight", 2)
    edge = round(frame**0.5)
    if edge * edge != frame or patch % frame:
        raise InvalidInput(
            f"checkpoint: patches of {patch} voxels, {frame} in the plane, are no square boxes.",
            "CT-CLIP v2 cuts 10 × 20 × 20 patches; take an original CT-CLIP_v2.pt.",
        )
    found = VisionConfig(
        volume_shape=volume_shape,
        patch_shape=(patch // frame, edge, edge),
        width=width,
        heads=heads,
        head_width=head_width,
        hidden=hidden,
        spatial_layers=_count(state, rf"{VISION}enc_spatial_transformer\.layers\.(\d+)\."),
        temporal_layers=_count(state, rf"{VISION}enc_temporal_transformer\.layers\.(\d+)\."),
        codebook_size=codebook_size,
        embedding_size=embedding_size,
    )
    if not found.temporal_layers:
        raise InvalidInput(
            f"checkpoint: no tensor of '{VISION}enc_temporal_transformer.layers'.",
            "The file is not a whole CT-CLIP v2 checkpoint; take an original CT-CLIP_v2.pt.",
        )
    # No shape tells how many layers there were. With all other sizes as published, a layer less is
    # a file that has lost tensors, and they are named as missing.
    published = replace(VisionConfig(), volume_shape=volume_shape)
    whole = replace(
        found,
        spatial_layers=max(found.spatial_layers, published.spatial_layers),
        temporal_layers=max(found.temporal_layers, published.temporal_layers),
    )
    return whole if whole == published else found


def text_config(state: Mapping[str, Tensor]) -> TextConfig:
    """Read BERT's sizes off the shapes. No shape tells the number of heads, which is left at 1."""
    embeddings = f"{TEXT}embeddings."
    vocabulary_size, width = _shape(state, f"{embeddings}word_embeddings.weight", 2)
    positions, _ = _shape(state, f"{embeddings}position_embeddings.weight", 2)
    segment_types, _ = _shape(state, f"{embeddings}token_type_embeddings.weight", 2)
    hidden, _ = _shape(state, f"{TEXT}encoder.layer.0.intermediate.dense.weight", 2)
    return TextConfig(
        vocabulary_size=vocabulary_size,
        width=width,
        layers=_count(state, rf"{TEXT}encoder\.layer\.(\d+)\."),
        heads=1,
        hidden=hidden,
        positions=positions,
        segment_types=segment_types,
    )


def _shape(state: Mapping[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    if name not in state:
        raise InvalidInput(
            f"checkpoint: tensor '{name}' is missing.",
            "The file does not hold a whole CT-CLIP v2; take CT-CLIP_v2.pt or CT_VocabFine_v2.pt.",
        )
    shape = tuple(state[name].shape)
    if len(shape) != rank or 0 in shape:
        raise InvalidInput(
            f"checkpoint: tensor '{name}' has shape {shape}, expected {rank} non-empty axes.",
            "The file is not an original CT-CLIP v2 checkpoint.",
        )
    return shape


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    matches = (re.match(pattern, name) for name in state)
    return len({match.group(1) for match in matches if match})
