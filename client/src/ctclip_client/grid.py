"""How the file of a scan places it in the patient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AffineForm:
    """One of the two ways in which a NIfTI header places its voxels in the patient.

    code: NIfTI's, of the space (1 scanner, 2 aligned, …). affine: 4 × 4, rows first, from an index
    (i, j, k) to (R, A, S), in the header's unit.
    """

    code: int
    affine: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, affine: NDArray[np.float64] | None, code: int) -> Self | None:
        """None where the header has none (code 0), or one that places nothing anywhere."""
        if affine is None or code <= 0:
            return None
        if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
            return None
        return cls(code, tuple(tuple(map(float, row)) for row in affine))

    def scaled(self, scale: NDArray[np.float64], offset: NDArray[np.float64]) -> AffineForm:
        """The placement of a grid whose index n lies at index scale · n + offset of this one."""
        change = np.diag([*scale, 1.0])
        change[:3, 3] = offset
        return replace(self, affine=tuple(map(tuple, (np.array(self.affine) @ change).tolist())))


@dataclass(frozen=True)
class Grid:
    """The grid of a scan's file, as far as an image that shall lie on the scan has to know it.

    It stays on this side: nothing of it is sent to a server or printed. Nothing else of the header
    is kept, since free text in it may name the patient.

    shape: voxels along the stored axes (i, j, k).
    pixdim: their edges, in the header's unit. unit: NIfTI's code for it (2 is millimetres).
    sform, qform: both, since viewers differ in which of the two they prefer.
    axes, flips: the stored axis that became z, x, y, and whether it was read backwards.
    """

    shape: tuple[int, int, int]
    pixdim: tuple[float, float, float]
    unit: int
    sform: AffineForm | None
    qform: AffineForm | None
    axes: tuple[int, int, int] = (2, 0, 1)
    flips: tuple[bool, bool, bool] = (False, False, False)
