"""Sizes of a CT-CLIP, as frozen data. Defaults are the published v2 model's."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VisionConfig:
    """CTViT. Shapes are (z, x, y)."""

    volume_shape: tuple[int, int, int] = (240, 480, 480)
    patch_shape: tuple[int, int, int] = (10, 20, 20)
    width: int = 512
    heads: int = 8
    head_width: int = 32
    hidden: int = (
        1365  # feed-forward: int(4 · 2/3 · width), so that GEGLU costs what a plain one would
    )
    spatial_layers: int = 4
    temporal_layers: int = 4
    codebook_size: int = 8192
    embedding_size: int = 512

    @property
    def token_shape(self) -> tuple[int, int, int]:
        """Tokens (slabs, rows, columns)."""
        slabs, rows, columns = (
            size // patch for size, patch in zip(self.volume_shape, self.patch_shape, strict=True)
        )
        return slabs, rows, columns

    @property
    def patch_volume(self) -> int:
        """Voxels of one patch."""
        depth, height, width = self.patch_shape
        return depth * height * width


@dataclass(frozen=True)
class TextConfig:
    """BERT, post-norm, exact GELU."""

    vocabulary_size: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    segment_types: int = 2
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True)
class ModelConfig:
    """Both encoders; they meet in `vision.embedding_size` dimensions."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
