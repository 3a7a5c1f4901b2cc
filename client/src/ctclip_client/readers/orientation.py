"""From an affine to the transposition and flips that put an array onto (z, x, y)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CODES = (("L", "R"), ("P", "A"), ("I", "S"))  # (towards minus, towards plus) of RAS+ world axes
# World axis (RAS+) of each target axis, and the direction along it: z to S, x to L, y to P.
_TARGET = ((2, 1), (0, -1), (1, -1))


@dataclass(frozen=True)
class Orientation:
    """codes: directions of the stored axes, e.g. "LAS". tilt_deg, shear_deg: of the whole grid.

    axes: stored axis that becomes z, x, y. flips: whether it is read backwards.
    """

    codes: str
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    tilt_deg: float = 0.0
    shear_deg: float = 0.0

    @property
    def turned(self) -> str:
        """How the stored axes 1, 2, 3 became z, x, y, in words."""
        return ", ".join(
            f"{name} is stored axis {axis + 1}{' reversed' if flip else ''}"
            for name, axis, flip in zip("zxy", self.axes, self.flips, strict=True)
        )

    def apply(self, stored: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return a view (z, x, y) of an array on the stored axes (i, j, k)."""
        step = {False: 1, True: -1}
        return stored.transpose(self.axes)[tuple(slice(None, None, step[f]) for f in self.flips)]


AS_STORED = Orientation("as stored", axes=(2, 0, 1), flips=(False, False, False))
"""[x, y, z] towards L, P, S: where the caller trusts no header."""


def orientation_of(affine: NDArray[np.float64]) -> Orientation | None:
    """Find the closest patient axes of an affine (4, 4) that maps voxels to RAS+ millimetres.

    Returns None where there is no answer: columns that are not finite, singular, or two stored axes
    closest to the same patient axis.
    """
    columns = affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():  # NaN spreads into them
        return None
    directions = columns / lengths  # (world axis, stored axis)
    world = np.abs(directions).argmax(axis=0)
    if sorted(world) != [0, 1, 2]:
        return None
    cosines = directions[world, range(3)]
    between = directions.T @ directions
    shear = np.abs(between[np.triu_indices(3, 1)]).max()
    axes, flips = [], []
    for world_axis, sign in _TARGET:
        stored_axis = int(np.flatnonzero(world == world_axis)[0])
        axes.append(stored_axis)
        flips.append(bool(cosines[stored_axis] * sign < 0))
    return Orientation(
        codes="".join(_CODES[w][int(c > 0)] for w, c in zip(world, cosines, strict=True)),
        axes=(axes[0], axes[1], axes[2]),
        flips=(flips[0], flips[1], flips[2]),
        tilt_deg=float(np.degrees(np.arccos(np.clip(np.abs(cosines), 0, 1).min()))),
        shear_deg=float(np.degrees(np.arcsin(np.clip(shear, 0, 1)))),
    )
