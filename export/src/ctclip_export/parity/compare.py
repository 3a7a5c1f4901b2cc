"""Comparisons that fail in order: names, shapes, types, NaN and infinity, then values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import CTClipError

Arrays = Mapping[str, NDArray[np.generic]]


class ParityError(CTClipError):
    """Two implementations disagree by more than is allowed. Exit code 1."""


@dataclass(frozen=True)
class Bound:
    """|got − expected| ≤ absolute + relative · |expected|, element by element."""

    absolute: float
    relative: float = 0.0


@dataclass(frozen=True)
class Agreement:
    """One quantity that was compared and found within its bound: its largest difference."""

    model: str
    quantity: str
    measured: float
    absolute: float
    relative: float = 0.0

    @property
    def allowed(self) -> str:
        """The bound in words."""
        parts = [f"{self.absolute:.0e}"] if self.absolute or not self.relative else []
        parts += [f"{self.relative:.0e}·|x|"] if self.relative else []
        return " + ".join(parts)


def largest(agreements: Iterable[Agreement]) -> list[Agreement]:
    """One line for each quantity that was compared several times: the worst."""
    worst: dict[tuple[str, str], Agreement] = {}
    for found in agreements:
        key = found.model, found.quantity
        if key not in worst or found.measured > worst[key].measured:
            worst[key] = found
    return list(worst.values())


def compare(
    model: str, got: Arrays, expected: Arrays, bounds: Mapping[str, Bound]
) -> list[Agreement]:
    """Compare named arrays; every name in `expected` needs a bound.

    Returns the largest absolute difference of each. Raises: ParityError naming the first failure.
    """
    if set(got) != set(expected):
        raise _failed(model, "outputs", sorted(got), sorted(expected))
    return [_compare_one(model, name, got[name], expected[name], bounds[name]) for name in expected]


def _compare_one(
    model: str,
    name: str,
    got: NDArray[np.generic],
    expected: NDArray[np.generic],
    bound: Bound,
) -> Agreement:
    if got.shape != expected.shape:
        raise _failed(model, f"shape of {name}", got.shape, expected.shape)
    if got.dtype != expected.dtype:
        raise _failed(model, f"data type of {name}", got.dtype, expected.dtype)
    for side, array in (("got", got), ("the reference", expected)):
        if not np.isfinite(array).all():
            raise _failed(model, f"{name} ({side})", "NaN or infinite values", "finite numbers")
    difference = np.abs(np.subtract(got, expected, dtype=np.float64))
    # VOXELS are 55 million: no second array for a bound that is one number.
    allowed: Any = bound.absolute
    if bound.relative:
        allowed = allowed + bound.relative * np.abs(expected.astype(np.float64))
    worst = float(difference.max(initial=0.0))
    if (difference > allowed).any():
        where = np.unravel_index(int((difference - allowed).argmax()), difference.shape)
        index = tuple(int(i) for i in where)
        raise _failed(model, f"{name}{list(index)}", got[index], f"{expected[index]} ± {bound}")
    return Agreement(model, name, worst, bound.absolute, bound.relative)


def _failed(model: str, what: str, got: object, expected: object) -> ParityError:
    return ParityError(
        f"parity: {model}: {what} is {got}, expected {expected}.",
        "Nothing was placed. The export does not compute what the checkpoint does: report it with "
        "the versions of torch, onnx and onnxruntime.",
    )
