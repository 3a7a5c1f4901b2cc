"""BERT up to the `[CLS]` state, and the projection into the joint embedding space.

Letters in shape comments: N texts, L tokens, W width, A heads, K head width, E embedding size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ctclip_export.model.config import TextConfig
from ctclip_export.model.dense import Dense


class BertEmbeddings(nn.Module):
    """Words, positions and (always the first) segment, summed and normalised."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.segments = nn.Embedding(config.segment_types, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        tokens = self.words(input_ids) + self.positions.weight[:length] + self.segments.weight[0]
        return self.norm(tokens)  # (N, L, W)


class BertLayer(nn.Module):
    """Self-attention and feed-forward, each followed by residual and norm (post-norm)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = Dense(config.width, config.width)
        self.key = Dense(config.width, config.width)
        self.value = Dense(config.width, config.width)
        self.attention_out = Dense(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.to_hidden = Dense(config.width, config.hidden)
        self.hidden_out = Dense(config.hidden, config.width)
        self.hidden_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        length, width = tokens.shape[1:]
        split = (-1, length, self.heads, width // self.heads)
        scale = (width // self.heads) ** -0.5
        q = (self.query(tokens) * scale).reshape(split).transpose(1, 2)  # (N, A, L, K)
        k = self.key(tokens).reshape(split).transpose(1, 2)  # (N, A, L, K)
        v = self.value(tokens).reshape(split).transpose(1, 2)  # (N, A, L, K)
        weights = (q @ k.transpose(-1, -2) + bias.to(q.dtype)).softmax(dim=-1)  # (N, A, L, L)
        mixed = (weights @ v).transpose(1, 2).reshape(-1, length, width)  # (N, L, W)
        tokens = self.attention_norm(tokens + self.attention_out(mixed))
        return self.hidden_norm(tokens + self.hidden_out(F.gelu(self.to_hidden(tokens))))


class TextEncoder(nn.Module):
    """Token ids in, text embedding of length 1 out."""

    def __init__(self, config: TextConfig, embedding_size: int) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))
        self.projection = nn.Linear(config.width, embedding_size, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode texts: both inputs (N, L) int64, L ≤ 512; returns (N, E) of length 1.

        Padding (mask 0) changes nothing: its weight in every softmax is exactly zero.
        """
        tokens = self.embeddings(input_ids)
        # Finite, also in float16, so that a row without any token stays a number; far enough below
        # any logit that exp() of the difference is 0.
        bias = (attention_mask == 0)[:, None, None, :].to(tokens.dtype) * -3e4  # (N, 1, 1, L)
        for layer in self.layers:
            tokens = layer(tokens, bias)
        return F.normalize(self.projection(tokens[:, 0]), dim=-1)  # (N, E)
