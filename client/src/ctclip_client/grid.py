"""Where a scan lies in its file, and where the model's tokens lie on the scan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import Geometry

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class AffineForm:
    """One of the two ways in which a NIfTI header places its voxels in the patient.

    code: NIfTI's, of the space (1 scanner, 2 aligned, …). affine: 4 × 4, rows first, from an index
    (i, j, k) to (R, A, S), in the header's unit.
    """

    code: int
    affine: Rows

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
    axes, flips: the stored axis that became z, x, y, and whether it was read backwards.
    sform, qform: both, since viewers differ in which of the two they prefer.
    """

    shape: tuple[int, int, int]
    pixdim: tuple[float, float, float]
    unit: int
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    sform: AffineForm | None
    qform: AffineForm | None


@dataclass(frozen=True)
class TokenAxis:
    """The tokens along one axis of a scan.

    count: of tokens. width: voxels of the scan that one covers, not a whole number. first: where
    the first one begins, in voxels from the outer face of voxel 0 (so voxel u is u … u + 1).
    """

    count: int
    width: float
    first: float

    def backwards(self, voxels: int) -> TokenAxis:
        """The same tokens, counted from the other end of an axis of so many voxels."""
        return replace(self, first=voxels - (self.first + self.count * self.width))

    @property
    def centre(self) -> float:
        """Index, among the scan's voxels, of the centre of token 0."""
        return self.first + self.width / 2 - 0.5

    def tokens(self, voxels: int) -> NDArray[np.intp]:
        """Token that holds the centre of each voxel: (voxels,), −1 outside of all tokens."""
        tokens = np.floor((np.arange(voxels) + 0.5 - self.first) / self.width).astype(np.intp)
        return np.where((tokens >= 0) & (tokens < self.count), tokens, -1)


def token_axes(
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float, float],
    geometry: Geometry,
    token_shape: tuple[int, int, int],
) -> tuple[TokenAxis, TokenAxis, TokenAxis]:
    """Find where tokens lie on a scan, along (z, x, y).

    Args:
        shape: voxels of the scan (z, x, y). spacing_mm: their edges.
        geometry, token_shape: of the release, from PROVENANCE.

    The server resamples each axis to size = int(n · (spacing / target)) voxels with a step of
    n / size (float64, the quotient first), and then crops or pads centrally to the model's volume,
    the smaller half in front: upstream's `data_inference_nii.py`. A token is a block of that
    volume, with the same number of voxels for each.
    """
    targets = zip(geometry.volume_shape, geometry.target_spacing_mm, token_shape, strict=True)
    axes = []
    for n, spacing, (wanted, target, count) in zip(shape, spacing_mm, targets, strict=True):
        size = int(n * (spacing / target))
        step = n / size
        start = (size - wanted) // 2 if size > wanted else -((wanted - size) // 2)
        axes.append(TokenAxis(count, wanted / count * step, start * step))
    return axes[0], axes[1], axes[2]
