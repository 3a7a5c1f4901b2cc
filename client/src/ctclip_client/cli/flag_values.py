"""Values of flags that several commands have, as `argparse` takes them."""

from __future__ import annotations

import argparse
import math

from ctclip_client.contract import SPACING_MM_RANGE


def volume_shape(text: str) -> tuple[int, int, int]:
    """`ZxXxY` in voxels. Raises: ArgumentTypeError."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(
        part.isascii() and part.isdigit() and 0 < len(part) < 6 and int(part) > 0 for part in parts
    ):
        raise argparse.ArgumentTypeError(f"got '{text}', expected ZxXxY such as 240x480x480")
    z, x, y = (int(part) for part in parts)
    return z, x, y


def millimetres(text: str) -> tuple[float, float, float]:
    """`Z,X,Y`, any numbers. Raises: ArgumentTypeError."""
    try:
        z, x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"got '{text}', expected three numbers z,x,y in millimetres, for instance 1.5,0.75,0.75"
        ) from error
    return z, x, y


def spacing_mm(text: str) -> tuple[float, float, float]:
    """`Z,X,Y` within the contract's limits. Raises: ArgumentTypeError."""
    low, high = SPACING_MM_RANGE
    z, x, y = millimetres(text)
    if not all(low < value < high for value in (z, x, y)):
        raise argparse.ArgumentTypeError(
            f"got '{text}', expected each more than {low:g} and less than {high:g} mm"
        )
    return z, x, y


def seconds(text: str) -> float:
    """A finite number above 0. Raises: ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got '{text}', expected seconds, more than 0")
    return value
