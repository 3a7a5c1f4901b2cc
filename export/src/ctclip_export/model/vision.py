"""CTViT: a chest CT becomes a grid of codes, and the codes become one embedding.

Letters in shape comments: B volumes, D·H·W voxels, T slabs, R rows and C columns of tokens,
N = R·C tokens of a slab, W width, A heads, K head width, Z codebook size, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctclip_export.model.config import VisionConfig
from ctclip_export.model.dense import Dense

ATTENTION_SCALE = 8.0
"""Temperature of the cosine attention: fixed in upstream's `Attention(scale=8)`, not learned."""


class TokenConv(nn.Module):
    """PEG, the position-encoding generator: a depthwise 3×3×3 convolution over the token grid.

    Causal along slabs (two slabs of padding before, none after), centred in the plane.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, width, kernel_size=3, groups=width)

    def forward(self, tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
        # The grid is laid over memory as it comes. Temporal tokens are stored (B·R·C, T, W), so for
        # them this mixes slabs with positions. Upstream trained it like that: keep it.
        width = tokens.shape[-1]
        volume = tokens.reshape(-1, *grid, width)  # (B, T, R, C, W)
        volume = volume.permute(0, 4, 1, 2, 3)  # (B, W, T, R, C)
        volume = volume.to(self.conv.weight.dtype)
        volume = self.conv(F.pad(volume, (1, 1, 1, 1, 2, 0)))  # (B, W, T, R, C)
        return volume.permute(0, 2, 3, 4, 1).reshape(-1, *tokens.shape[1:])


class CosineAttention(nn.Module):
    """Attention over L2-normalised queries and keys.

    Queries come from the normalised tokens, keys and values from the tokens before the norm, as
    upstream has it.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width
        self.norm = nn.LayerNorm(width)
        self.to_q = Dense(width, heads * head_width, bias=False)
        self.to_kv = Dense(width, 2 * heads * head_width, bias=False)
        self.to_out = Dense(heads * head_width, width, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_width))
        self.k_scale = nn.Parameter(torch.ones(head_width))

    def forward(self, tokens: Tensor, bias: Tensor | None) -> Tensor:
        length = tokens.shape[1]
        split = (-1, length, self.heads, self.head_width)
        q = self.to_q(self.norm(tokens)).reshape(split).transpose(1, 2)  # (·, A, L, K)
        k, v = self.to_kv(tokens).chunk(2, dim=-1)
        k = k.reshape(split).transpose(1, 2)  # (·, A, L, K)
        v = v.reshape(split).transpose(1, 2)  # (·, A, L, K)
        # One scale on the queries stands for all three: (q·s_q)·(k·s_k)·8 = (q·8·s_q·s_k)·k. Folded
        # here, the product goes straight into the softmax, which is the form that engines fuse.
        scale = ATTENTION_SCALE * self.q_scale * self.k_scale  # (K,)
        # Lengths are sums of squares: float32, whatever the products around them compute in.
        q = (F.normalize(q.float(), dim=-1) * scale).to(v.dtype)
        k = F.normalize(k.float(), dim=-1).to(v.dtype)
        logits = q @ k.transpose(-1, -2)  # (·, A, L, L)
        if bias is not None:
            logits = logits + bias.to(v.dtype)  # (·, A, L, L) + (A, L, L)
        mixed = logits.softmax(dim=-1) @ v  # (·, A, L, K)
        return self.to_out(mixed.transpose(1, 2).reshape(-1, length, self.heads * self.head_width))


class GatedFeedForward(nn.Module):
    """GEGLU: value · GELU(gate), exact (erf) GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_hidden = Dense(width, 2 * hidden, bias=False)
        self.to_out = Dense(hidden, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        value, gate = self.to_hidden(self.norm(tokens)).chunk(2, dim=-1)
        return self.to_out(value * F.gelu(gate))


class Block(nn.Module):
    """One layer: position convolution, attention, feed-forward, each with a residual.

    The residual stream is float32 in every precision: float32 + float16 is float32.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.token_conv = TokenConv(config.width)
        self.attention = CosineAttention(config.width, config.heads, config.head_width)
        self.feed_forward = GatedFeedForward(config.width, config.hidden)

    def forward(self, tokens: Tensor, grid: tuple[int, int, int], bias: Tensor | None) -> Tensor:
        tokens = tokens + self.token_conv(tokens, grid)
        tokens = tokens + self.attention(tokens, bias)
        return tokens + self.feed_forward(tokens)


class Transformer(nn.Module):
    """A stack of blocks and a closing norm; shape (sequences, tokens of one, W) in and out."""

    def __init__(self, config: VisionConfig, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int, int], bias: Tensor | None = None
    ) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, grid, bias)
        return self.norm(tokens)


class PositionBias(nn.Module):
    """Attention bias from relative in-plane positions by a small network on log distances."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first = nn.Linear(2, width)
        self.second = nn.Linear(width, width)
        self.to_heads = nn.Linear(width, heads)

    def forward(self, rows: int, columns: int) -> Tensor:
        """The bias (A, N, N), N = rows · columns; entry (i, j) depends on position i − j."""
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        position = torch.stack([row.flatten(), column.flatten()], dim=-1)  # (N, 2)
        offset = position[:, None] - position[None, :]  # (N, N, 2)
        # The network runs once for each distinct offset, not for each of the N² pairs.
        d_row = torch.arange(1 - rows, rows)
        d_column = torch.arange(1 - columns, columns)
        distinct = torch.cartesian_prod(d_row, d_column).float()  # ((2R−1)(2C−1), 2)
        hidden = distinct.sign() * torch.log(distinct.abs() + 1)
        hidden = F.leaky_relu(self.first(hidden), 0.1)
        hidden = F.leaky_relu(self.second(hidden), 0.1)
        bias = self.to_heads(hidden)  # ((2R−1)(2C−1), A)
        index = (offset[..., 0] + rows - 1) * (2 * columns - 1) + offset[..., 1] + columns - 1
        return bias[index].permute(2, 0, 1).contiguous()  # (A, N, N)


@dataclass(frozen=True)
class VisionStages:
    """Everything CTViT computes on its way, for comparisons stage by stage."""

    patch_tokens: Tensor  # (B, T, R, C, W)
    spatial_tokens: Tensor  # (B·T, N, W)
    temporal_tokens: Tensor  # (B·N, T, W)
    codes: Tensor  # (B, T, R, C) int32
    encoded_tokens: Tensor  # (B, T, R, C, W), rows of the codebook
    embedding: Tensor  # (B, E), length 1
    norm: Tensor  # (B, 1), length before normalising


class CTViT(nn.Module):
    """The vision encoder, with the projection into the joint embedding space.

    Call `fold_constants()` after loading weights: it computes what depends on weights alone.
    """

    spatial_bias: Tensor
    unit_codebook: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        _, rows, columns = config.token_shape
        self.patch_norm = nn.LayerNorm(config.patch_volume)
        self.patch_projection = Dense(config.patch_volume, config.width)
        self.token_norm = nn.LayerNorm(config.width)
        self.position_bias = PositionBias(config.width, config.heads)
        self.spatial = Transformer(config, config.spatial_layers)
        self.temporal = Transformer(config, config.temporal_layers)
        self.codebook = nn.Parameter(torch.zeros(config.codebook_size, config.width))
        self.projection = nn.Linear(
            rows * columns * config.width, config.embedding_size, bias=False
        )
        self.register_buffer("spatial_bias", None, persistent=False)
        self.register_buffer("unit_codebook", None, persistent=False)

    @torch.no_grad()
    def fold_constants(self) -> None:
        """Compute the attention bias (A, N, N) and the codebook of unit length (Z, W)."""
        _, rows, columns = self.config.token_shape
        self.spatial_bias = self.position_bias(rows, columns)
        self.unit_codebook = F.normalize(self.codebook, dim=-1)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode volumes (B, 1, D, H, W), float32 in [−1, 1].

        Returns the embedding (B, E) of length 1, its length before normalising (B, 1), and the
        codes (B, T, R, C) int32.
        """
        stages = self.stages(volume)
        return stages.embedding, stages.norm, stages.codes

    def stages(self, volume: Tensor) -> VisionStages:
        """As `forward`, keeping every intermediate result."""
        patches = self.embed_patches(volume)
        spatial, temporal = self.encode(patches)
        codes = self.nearest_codes(self.to_grid(temporal))
        encoded = F.embedding(codes, self.codebook)  # (B, T, R, C, W)
        embedding, norm = self.project(encoded)
        return VisionStages(patches, spatial, temporal, codes, encoded, embedding, norm)

    def embed_patches(self, volume: Tensor) -> Tensor:
        """(B, 1, D, H, W) -> patch tokens (B, T, R, C, W)."""
        slabs, rows, columns = self.config.token_shape
        depth, height, width = self.config.patch_shape
        patches = volume.reshape(-1, slabs, depth, rows, height, columns, width)
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6)  # (B, T, R, C, depth, height, width)
        patches = patches.reshape(-1, slabs, rows, columns, self.config.patch_volume)
        return self.token_norm(self.patch_projection(self.patch_norm(patches)).float())

    def encode(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens (B, T, R, C, W) -> spatial (B·T, N, W) and temporal (B·N, T, W) tokens."""
        slabs, rows, columns = grid = self.config.token_shape
        width = self.config.width
        spatial = self.spatial(patches.reshape(-1, rows * columns, width), grid, self.spatial_bias)
        columns_first = spatial.reshape(-1, slabs, rows * columns, width).transpose(1, 2)
        temporal = self.temporal(columns_first.reshape(-1, slabs, width), grid)
        return spatial, temporal

    def to_grid(self, temporal: Tensor) -> Tensor:
        """Temporal tokens (B·N, T, W) -> (B, T, R, C, W)."""
        slabs, rows, columns = self.config.token_shape
        tokens = temporal.reshape(-1, rows * columns, slabs, self.config.width)
        return tokens.transpose(1, 2).reshape(-1, slabs, rows, columns, self.config.width)

    def similarities(self, tokens: Tensor) -> Tensor:
        """Cosine of each token (…, W) with each code: (…, Z)."""
        return F.normalize(tokens, dim=-1) @ self.unit_codebook.transpose(0, 1)

    def nearest_codes(self, tokens: Tensor) -> Tensor:
        """The code with the largest cosine for each token (…, W): (…) int32."""
        return self.similarities(tokens).argmax(dim=-1).to(torch.int32)

    def project(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Code rows (B, T, R, C, W) -> embedding (B, E) of length 1, its length before (B, 1)."""
        pooled = encoded.mean(dim=1).flatten(start_dim=1)  # (B, R·C·W)
        projected = self.projection(pooled)  # (B, E)
        norm = torch.linalg.vector_norm(projected, dim=-1, keepdim=True)  # (B, 1)
        return projected / norm.clamp_min(1e-12), norm
