"""Which part of a trunk does not bear a low precision, found by bisection."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ctclip_export.model.precision import trunk_parts, typed

Holds = Callable[[nn.Module], bool]


def first_part_to_fail(model: nn.Module, precision: str, holds: Holds) -> str:
    """The first part of the trunk that, typed together with all before it, breaks the bounds.

    holds: judges a twin of the model. It must hold for no typed part and fail for all of them;
    the answer is exact where more typed parts never make a twin better.
    """
    parts = trunk_parts(model)
    good, bad = 0, len(parts)
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(typed(model, precision, only=parts[:middle])):
            good = middle
        else:
            bad = middle
    return parts[bad - 1]
