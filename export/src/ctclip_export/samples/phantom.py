"""The phantom on the scale of a model's grid."""

from __future__ import annotations

from ctclip_client import Volume
from ctclip_client.contract import Geometry
from ctclip_client.doctor.phantom import draw_chest

# Share of the field of view that the phantom covers along (z, x, y): padded, cropped, padded.
_COVERAGE = (0.9, 1.1, 0.8)
# Source voxels are this much wider than the model's, and not by a whole number.
_COARSENESS = (1.7, 2.3, 2.3)


def chest_phantom(geometry: Geometry, seed: int = 0) -> Volume:
    """A chest that fills 90 %, 110 % and 80 % of the field of view along z, x and y, so that both
    cropping and padding happen.
    """
    z, x, y = (
        round(target * coarse, 3)
        for target, coarse in zip(geometry.target_spacing_mm, _COARSENESS, strict=True)
    )
    depth, height, width = (
        max(round(size * cover / coarse), 2)
        for size, cover, coarse in zip(geometry.volume_shape, _COVERAGE, _COARSENESS, strict=True)
    )
    return draw_chest((depth, height, width), (z, x, y), seed)
