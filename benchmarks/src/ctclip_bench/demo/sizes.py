"""Sizes of a checkpoint of random weights. Needs nothing but the model's own configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ctclip_client.contract import Geometry
from ctclip_export.model import ModelConfig, TextConfig, VisionConfig


@dataclass(frozen=True)
class DemoModel:
    """One size of the demo. The codebook is fitted to the tokens of `fitting_variations` of the CT,
    in so many `rounds` of k-means.
    """

    geometry: Geometry
    config: ModelConfig
    fitting_variations: int
    rounds: int

    @property
    def fitting_tokens(self) -> int:
        """Tokens that the codebook is fitted to."""
        return self.fitting_variations * math.prod(self.config.vision.token_shape)


PUBLISHED = DemoModel(Geometry(), ModelConfig(), fitting_variations=2, rounds=1)
"""27,648 tokens, which is quick. Measured on a variation that neither was fitted to, these beside
`MANY_TOKENS`: codes used 4,700 and 4,235, perplexity 3,118 and 2,666, median margin 0.033 and
0.031; share of codes that agree with float32 in bf16 0.9977 and 0.9979, in int8 0.9910 and 0.9933.
"""
MANY_TOKENS = replace(PUBLISHED, fitting_variations=8, rounds=3)
"""110,592 tokens: for checkpoints on which lower precisions are judged."""
_SMALL_SHAPE = (60, 100, 120)
SMALL = DemoModel(
    # The same field of view as published, 360 mm along every axis, on a coarser grid.
    Geometry(_SMALL_SHAPE, (6.0, 3.6, 3.0)),
    ModelConfig(
        VisionConfig(
            volume_shape=_SMALL_SHAPE, width=64, heads=4, head_width=16, hidden=170,
            spatial_layers=2, temporal_layers=2, codebook_size=256, embedding_size=32,
        ),
        TextConfig(width=48, layers=2, heads=4, hidden=96),
    ),
    fitting_variations=12,  # × 180 tokens
    rounds=8,
)  # fmt: skip
