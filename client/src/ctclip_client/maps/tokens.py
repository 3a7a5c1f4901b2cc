"""Where the model's tokens lie on a scan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import Geometry


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
