"""Layers that compute in the data type of their weights."""

from __future__ import annotations

from torch import Tensor, nn


class Dense(nn.Linear):
    """A linear layer that takes its input into its weights' data type, and answers in it.

    With float32 weights that is `nn.Linear`. In a typed model (see `precision/typed_twin.py`) the
    weights of the trunk are float16 or bfloat16, and everything around them stays float32.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (nn.Linear's name)
        """(…, in) of any floating type -> (…, out) of the weights' type."""
        return super().forward(input.to(self.weight.dtype))
