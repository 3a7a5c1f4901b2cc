"""A CT ready for the wire, and the record of how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import RESCALE, SPACING, SPACING_MM_RANGE, VOLUME
from ctclip_client.errors import InvalidInput
from ctclip_client.grid import Grid

_AXES = ("z", "x", "y")
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_SMALLEST_FLOAT32 = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Source:
    """Where a volume came from and what was decided on the way.

    orientation: axis codes found in the file ("LAS": the stored axes run towards left, anterior,
        superior), "as stored" where the caller asked for no reorientation, "array" for arrays.
    hu_source: where slope and intercept come from.
    path: the file, None for arrays. series: the DICOM SeriesInstanceUID, None where there is none.
    notes: what a reader of the result should know, one sentence each.
    turned: which stored axis became z, x and y, in words. spacing_source: where the spacing comes
        from. hu_percentiles: (5, …), (50, …), (95, …) of the scan's Hounsfield units.
    shape: (z, x, y) voxels.
    grid: how the file stores the scan, for images that shall lie on it; None where unknown.
    sha256: of the file, by whoever read it; of a series: of its files' digests, in their order.
    """

    orientation: str = "array"
    hu_source: str = "given by the caller"
    path: str | None = None
    series: str | None = None
    notes: tuple[str, ...] = ()
    turned: str = ""
    spacing_source: str = "given by the caller"
    hu_percentiles: tuple[tuple[int, float], ...] = ()
    shape: tuple[int, ...] = ()
    grid: Grid | None = field(default=None, repr=False)
    sha256: str | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """A chest CT: int16 voxels on patient axes, with what turns them into Hounsfield units.

    voxels: (z, x, y) int16, z towards Superior, x towards Left, y towards Posterior. A read-only
        view, with any strides, of the array it was made from.
    spacing_mm: (z, x, y) edge of a voxel in millimetres.
    rescale: (slope, intercept); HU = slope · voxel + intercept. Both travel as float32.
    """

    voxels: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    rescale: tuple[float, float]
    source: Source = field(default_factory=Source)

    def __post_init__(self) -> None:
        object.__setattr__(self, "voxels", _checked_voxels(self.voxels))
        object.__setattr__(self, "spacing_mm", checked_spacing_mm(self.spacing_mm))
        object.__setattr__(self, "rescale", checked_rescale(self.rescale))

    @classmethod
    def from_array(
        cls,
        voxels: NDArray[np.int16],
        spacing_mm: Sequence[float],
        rescale: Sequence[float],
    ) -> Self:
        """Wrap an array that is already on the axes (z, x, y); nothing is copied or reoriented.

        Args:
            voxels: (z, x, y) int16, towards Superior, Left, Posterior. The volume shares its
                memory and never writes to it.
            spacing_mm: (z, x, y) in millimetres, each inside `contract.SPACING_MM_RANGE`.
            rescale: (slope, intercept); (1, 0) where the voxels are Hounsfield units.

        Whether the values can be Hounsfield units is not checked here; `read_volume` does that.

        Raises:
            InvalidInput: names the field, what came and what was expected.
        """
        return cls(
            voxels,
            cast(tuple[float, float, float], spacing_mm),
            cast(tuple[float, float], rescale),
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors of a request by name, as the contract has them.

        VOLUME: `voxels`, not copied. SPACING: (3,) float64 mm. RESCALE: (2,) float32.
        """
        return {
            VOLUME.name: self.voxels,
            SPACING.name: np.array(self.spacing_mm, np.float64),
            RESCALE.name: np.array(self.rescale, np.float32),
        }

    def recipe(self) -> dict[str, object]:
        """How these voxels came about, as `ctclip predict --json` prints it."""
        source = replace(self.source, shape=self.voxels.shape)
        return recipe(self.spacing_mm, self.rescale, source)


def recipe(
    spacing_mm: tuple[float, float, float], rescale: tuple[float, float], source: Source
) -> dict[str, object]:
    """The `recipe` of the contract: how a volume came about, whose voxels may be gone.

    What the model sees of it depends on the server: see `coverage`.
    """
    return {
        "orientation": source.orientation,
        "turned": source.turned,
        "shape": list(source.shape),
        "spacing_mm": list(spacing_mm),
        "spacing_source": source.spacing_source,
        "rescale": list(rescale),
        "hu_source": source.hu_source,
        "hu_percentiles": {str(percent): hu for percent, hu in source.hu_percentiles},
        "series": source.series,
        "sha256": source.sha256,
        "notes": list(source.notes),
    }


def checked_spacing_mm(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Return (z, x, y) as floats.

    Raises:
        InvalidInput: not three finite numbers inside `contract.SPACING_MM_RANGE`.
    """
    low, high = SPACING_MM_RANGE
    values = _floats("spacing_mm", spacing_mm, "three numbers (z, x, y) in millimetres", 3)
    for axis, value in zip(_AXES, values, strict=True):
        if not low < value < high:
            raise InvalidInput(
                f"spacing_mm: {axis} is {value:g}, expected more than {low:g} and less than "
                f"{high:g} mm.",
                "Check the unit (millimetres) and the order (z, x, y).",
            )
    return values[0], values[1], values[2]


def checked_rescale(rescale: Sequence[float]) -> tuple[float, float]:
    """Return (slope, intercept) as floats.

    Raises:
        InvalidInput: not two numbers that float32 can hold, or a slope of 0.
    """
    slope, intercept = _floats("rescale", rescale, "two numbers (slope, intercept)", 2)
    for name, value in (("slope", slope), ("intercept", intercept)):
        if not abs(value) <= _LARGEST_FLOAT32:  # false for NaN too
            raise InvalidInput(
                f"rescale: {name} is {value}, expected a finite number.",
                "HU = slope · voxel + intercept; voxels that are HU already have slope 1, "
                "intercept 0.",
            )
    if abs(slope) < _SMALLEST_FLOAT32:
        raise InvalidInput(
            f"rescale: slope is {slope:g}, expected anything but 0.",
            "With slope 0 every voxel would be the same. A NIfTI header's 0 means 'no scaling': "
            "slope 1, intercept 0.",
        )
    return slope, intercept


def _floats(name: str, values: Sequence[float], expected: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or isinstance(values, str):
        raise InvalidInput(f"{name}: got {values!r}, expected {expected}.")
    return numbers


def _checked_voxels(voxels: NDArray[np.int16]) -> NDArray[np.int16]:
    if not isinstance(voxels, np.ndarray):
        raise InvalidInput(
            f"voxels: got {type(voxels).__name__}, expected a numpy array of int16 (z, x, y).",
            "Use numpy.asarray first.",
        )
    if voxels.dtype.kind != "i" or voxels.dtype.itemsize != 2:
        raise InvalidInput(
            f"voxels: dtype is {voxels.dtype}, expected int16.",
            "For Hounsfield units as floats: numpy.rint(32 * hu.clip(-1000, 1000)).astype('int16') "
            "with rescale=(1 / 32, 0).",
        )
    if voxels.ndim != 3:
        raise InvalidInput(
            f"voxels: shape is {voxels.shape}, expected three axes (z, x, y).",
            "One volume at a time, without batch or channel axis.",
        )
    if 0 in voxels.shape:
        raise InvalidInput(
            f"voxels: shape is {voxels.shape}, expected at least one voxel along every axis.",
        )
    native = voxels if voxels.dtype.isnative else voxels.astype(np.int16)
    view = native.view(np.ndarray)
    view.flags.writeable = False
    return view
