"""Typed twins of the reference model: low-precision trunks between float32 islands.

Low precision: every Dense layer and depthwise convolution of both trunks, and the products of
attention with their softmax. Float32: normalisations and their statistics, L2 norms, the residual
stream, the code search, both projections into the joint space, and all scores.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

from ctclip_export.model.dense import Dense

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""Typed trunks that `--precision` names, as their data type."""

Trunk = TypeVar("Trunk", bound=nn.Module)


def typed(model: Trunk, precision: str, only: Iterable[str] | None = None) -> Trunk:
    """A copy of an encoder with its trunk in `precision`.

    only: names of sub-modules (as in `named_modules`) to type; by default all of the trunk.
    Raises: OverflowError naming the layer whose weights do not fit into the data type.
    """
    twin = copy.deepcopy(model)
    dtype = DTYPES[precision]
    prefixes = None if only is None else tuple(f"{name}." for name in only)
    for name, module in twin.named_modules():
        if not isinstance(module, Dense | nn.Conv3d):
            continue
        if prefixes is not None and not f"{name}.".startswith(prefixes):
            continue
        module.to(dtype)
        if not all(torch.isfinite(weight).all() for weight in module.parameters()):
            raise OverflowError(f"{name}: weights beyond the range of {precision}")
    return twin


def trunk_parts(model: nn.Module) -> list[str]:
    """The parts of a trunk in the order of computation, as `typed(only=…)` takes them."""
    parts: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{part}.") for part in parts)
        if inside or not name:
            continue
        if isinstance(module, Dense | nn.Conv3d) or type(module).__name__ in ("Block", "BertLayer"):
            parts.append(name)
    return parts
