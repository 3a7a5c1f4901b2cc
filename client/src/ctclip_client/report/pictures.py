"""Still pictures of three planes, with what marks them."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import InvalidInput
from ctclip_client.report.view import HU_RANGE, STEP_HU, View
from ctclip_client.system.distributions import how_to_install_extra
from ctclip_client.volume import Volume

Window = tuple[int, int]
"""Its level, which is its middle, and its width, HU."""
WINDOWS = {
    "Lung": (-600, 1500), "Mediastinum": (40, 400), "Bone": (400, 1800), "Full": (0, 2000),
}  # fmt: skip
STILL = WINDOWS["Lung"]
WIDE = (-300, 1400)
_LARGEST_PX = 384


@dataclass(frozen=True)
class Plane:
    """A plane through the middle of a volume, seen as radiologists do: from the feet, from the
    front, and from the left.

    title: its name. png: the picture as a data URI of width × height pixels. sides: letters of the
    patient's sides on the left, on the right, at the top and at the bottom. outline: a box on it,
    in percent from the left and from the top, its width and height; None where there is none.
    """

    title: str
    png: str
    width: int
    height: int
    sides: str
    outline: tuple[float, float, float, float] | None = None


def require_pillow() -> None:
    """Raises: InvalidInput where it is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise InvalidInput("Pictures of pages need Pillow.", how_to_install_extra("report")) from (
            error
        )


def thumbnails(volume: Volume, seen_mm: Mapping[str, tuple[float, float]]) -> list[Plane]:
    """The middle planes of a whole scan, and on them what the model sees of it.

    seen_mm: from where to where, as in `coverage.kept_mm`; nothing where that is unknown.
    """
    shape = volume.voxels.shape
    extent = [n * edge for n, edge in zip(shape, volume.spacing_mm, strict=True)]
    voxel = [1 / n for n in shape]
    seen = [
        tuple(end / whole for end in seen_mm.get(axis, (0.0, whole)))
        for axis, whole in zip("zxy", extent, strict=True)
    ]
    slope, intercept = volume.rescale
    # Ends are rounded, by less than a voxel.
    whole = all(
        low < part and high > 1 - part for (low, high), part in zip(seen, voxel, strict=True)
    )
    outline = None if whole else seen
    middle = [slope * plane + intercept for plane in _middle(volume.voxels)]
    return _planes(middle, extent, WIDE, outline)


def stills(view: View) -> list[Plane]:
    """The middle planes of what the model sees."""
    shape = view.voxels.shape
    extent = [n * edge for n, edge in zip(shape, view.spacing_mm, strict=True)]
    middle = [STEP_HU * plane + HU_RANGE[0] for plane in _middle(view.voxels)]
    return _planes(middle, extent, STILL, None)


def _middle(voxels: NDArray[Any]) -> list[NDArray[np.float64]]:
    """The planes (x, y), (z, y) and (z, x) through the middle of (z, x, y)."""
    z, x, y = (n // 2 for n in voxels.shape)
    return [voxels[z].astype(float), voxels[:, x].astype(float), voxels[:, :, y].astype(float)]


def _planes(
    middle: list[NDArray[np.float64]],
    extent: list[float],
    window: Window,
    seen: list[tuple[float, ...]] | None,
) -> list[Plane]:
    """middle: HU of the planes (x, y), (z, y) and (z, x). extent: mm along (z, x, y). seen: from
    where to where, as shares of these."""
    axial, sagittal, coronal = middle
    z, x, y = range(3)
    return [
        _plane("Axial", axial.T, (x, y), "RLAP", extent, window, seen),
        _plane("Coronal", coronal[::-1], (x, z), "RLSI", extent, window, seen),
        _plane("Sagittal", sagittal[::-1], (y, z), "APSI", extent, window, seen),
    ]


def _plane(  # noqa: PLR0917 (once for each of three planes)
    title: str,
    hu: NDArray[np.float64],
    axes: tuple[int, int],
    sides: str,
    extent: list[float],
    window: Window,
    seen: list[tuple[float, ...]] | None,
) -> Plane:
    """hu: (rows from the top, columns from the left). axes: along columns and rows."""
    across, down = (extent[axis] for axis in axes)
    scale = _LARGEST_PX / max(across, down)
    width, height = max(round(across * scale), 1), max(round(down * scale), 1)
    outline = None
    if seen is not None:
        (left, right), (low, high) = (seen[axis] for axis in axes)
        if axes[1] == 0:  # z: what is high is at the top
            low, high = 1 - high, 1 - low
        outline = (100 * left, 100 * low, 100 * (right - left), 100 * (high - low))
    png = _png(_grey(hu, window), width, height)
    return Plane(title, png, width, height, sides, outline)


def _grey(hu: NDArray[np.float64], window: Window) -> NDArray[np.uint8]:
    level, width = window
    grey: NDArray[np.uint8] = np.rint(((hu - level) / width + 0.5).clip(0, 1) * 255).astype(
        np.uint8
    )
    return grey


def _png(grey: NDArray[np.uint8], width: int, height: int) -> str:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(grey))
    file = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(file, "PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
