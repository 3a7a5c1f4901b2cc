"""CTViT once more, straight from its description and from upstream's tensor names: no module, no
configuration and nothing else shared with the reference model. For sizes that no golden data has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

V = "visual_transformer."


def plain_vision(
    state: dict[str, Tensor], volume: Tensor, patch: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Volume (B, 1, D, H, W) -> codes (B, T, R, C) and the embedding before its norm (B, E)."""
    batch, _, *sizes = volume.shape
    t, r, c = (size // edge for size, edge in zip(sizes, patch, strict=True))
    pieces = volume.unfold(2, patch[0], patch[0]).unfold(3, patch[1], patch[1])
    tokens = pieces.unfold(4, patch[2], patch[2]).reshape(batch, t, r, c, -1)
    tokens = _norm(tokens, state, f"{V}to_patch_emb.1", "weight", "bias")
    tokens = F.linear(tokens, *_pair(state, f"{V}to_patch_emb.2"))
    tokens = _norm(tokens, state, f"{V}to_patch_emb.3", "weight", "bias")
    width = tokens.shape[-1]

    grid = (batch, t, r, c, width)
    tokens = _transformer(
        state, f"{V}enc_spatial_transformer.", tokens.reshape(batch * t, r * c, width), grid,
        _bias(state, r, c),
    )  # fmt: skip
    tokens = tokens.reshape(batch, t, r * c, width).transpose(1, 2).reshape(-1, t, width)
    tokens = _transformer(state, f"{V}enc_temporal_transformer.", tokens, grid, torch.zeros(1))
    tokens = tokens.reshape(batch, r * c, t, width).transpose(1, 2).reshape(grid)

    codebook = state[f"{V}vq._codebook.embed"][0]
    codes = (F.normalize(tokens, dim=-1) @ F.normalize(codebook, dim=-1).T).argmax(dim=-1)
    pooled = codebook[codes].mean(dim=1).reshape(batch, -1)
    return codes, F.linear(pooled, state["to_visual_latent.weight"])


def _transformer(
    state: dict[str, Tensor], name: str, x: Tensor, grid: tuple[int, ...], bias: Tensor
) -> Tensor:
    layers = {key[len(name) :].split(".")[1] for key in state if key.startswith(f"{name}layers")}
    for layer in sorted(layers, key=int):
        own = f"{name}layers.{layer}."
        on_grid = x.reshape(grid).permute(0, 4, 1, 2, 3)
        on_grid = F.conv3d(
            F.pad(on_grid, (1, 1, 1, 1, 2, 0)), *_pair(state, f"{own}0.dsconv"), groups=grid[-1]
        )
        x = x + on_grid.permute(0, 2, 3, 4, 1).reshape(x.shape)
        x = x + _attention(state, f"{own}1.", x, bias)
        hidden = _norm(x, state, f"{own}3.0", "weight", "bias") @ state[f"{own}3.1.weight"].T
        value, gate = hidden.chunk(2, dim=-1)
        x = x + (value * F.gelu(gate)) @ state[f"{own}3.4.weight"].T
    return _norm(x, state, f"{name}norm_out", "gamma", "beta")


def _attention(state: dict[str, Tensor], own: str, x: Tensor, bias: Tensor) -> Tensor:
    heads, _, head_width = state[f"{own}null_kv"].shape
    q = _norm(x, state, f"{own}norm", "gamma", "beta") @ state[f"{own}to_q.weight"].T
    k, v = (x @ state[f"{own}to_kv.weight"].T).chunk(2, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, head_width)) for part in (q, k, v))
    q = F.normalize(q, dim=-1) * state[f"{own}q_scale"]
    k = F.normalize(k, dim=-1) * state[f"{own}k_scale"]
    weights = (8 * torch.einsum("nihd,njhd->nhij", q, k) + bias).softmax(dim=-1)
    return torch.einsum("nhij,njhd->nihd", weights, v).flatten(2) @ state[f"{own}to_out.weight"].T


def _bias(state: dict[str, Tensor], rows: int, columns: int) -> Tensor:
    """One pass of the network for each pair of positions: (heads, R·C, R·C)."""
    at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    offset = at[:, None] - at[None]
    hidden = offset.sign() * offset.abs().log1p()
    net = f"{V}spatial_rel_pos_bias.net."
    for name in ("0.0", "1.0"):
        hidden = F.leaky_relu(F.linear(hidden, *_pair(state, f"{net}{name}")), 0.1)
    return F.linear(hidden, *_pair(state, f"{net}2")).permute(2, 0, 1)


def _norm(x: Tensor, state: dict[str, Tensor], name: str, gain: str, bias: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.{gain}"], state[f"{name}.{bias}"])


def _pair(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]
