"""What a caller may ask of a reader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """as_stored: no reorientation. spacing_mm: (z, x, y). rescale: (slope, intercept) to use."""

    as_stored: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    rescale: tuple[float, float] | None = None
