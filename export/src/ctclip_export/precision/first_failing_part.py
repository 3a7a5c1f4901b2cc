"""Which part of a trunk does not bear a low precision, found by bisection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ctclip_export.precision.typed_twin import trunk_parts, typed

Holds = Callable[[nn.Module], bool]


def first_part_to_fail(model: nn.Module, precision: str, holds: Holds) -> str:
    """The first part of the trunk that, typed together with all before it, breaks the bounds.

    holds: judges a twin of the model.
    """
    return first_to_fail(
        trunk_parts(model), lambda parts: holds(typed(model, precision, only=parts))
    )


def first_to_fail(parts: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> str:
    """The first part that, in low precision together with all before it, breaks the bounds.

    holds: judges the network with some of its parts in low precision. It must hold for none of them
    and fail for all; the answer is exact where more of them never make it better.
    """
    good, bad = 0, len(parts)
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(parts[:middle]):
            good = middle
        else:
            bad = middle
    return parts[bad - 1]
