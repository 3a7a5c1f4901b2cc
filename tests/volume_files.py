"""NRRD, MetaImage and RAD-ChestCT files for tests, from arrays on the patient's axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

_TOWARDS = {"R": (-1, 0, 0), "L": (1, 0, 0), "A": (0, -1, 0), "P": (0, 1, 0),
            "I": (0, 0, -1), "S": (0, 0, 1)}  # fmt: skip


def save_itk(
    path: Path,
    array: NDArray[Any],
    spacing_mm: tuple[float, float, float] = (2.5, 0.7, 0.8),
    codes: str = "LPS",
    *,
    packed: bool = True,
) -> Path:
    """Write an array on (z, x, y), its stored axes running towards `codes`, by SimpleITK."""
    axes = [{"R": 0, "L": 0, "A": 1, "P": 1, "I": 2, "S": 2}[code] for code in codes]
    lps = array.transpose(1, 2, 0)  # (x, y, z)
    stored = lps.transpose(axes)
    stored = stored[tuple(slice(None, None, -1 if code in "RAI" else 1) for code in codes)]
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(stored.transpose()))
    z, x, y = spacing_mm
    image.SetSpacing([(x, y, z)[axis] for axis in axes])
    image.SetDirection(np.array([_TOWARDS[code] for code in codes], float).T.ravel().tolist())
    image.SetOrigin((11.0, -7.0, 5.0))
    SimpleITK.WriteImage(image, str(path), useCompression=packed)
    return path


def save_rad_chestct(path: Path, array: NDArray[Any], **more: NDArray[Any]) -> Path:
    """Write an array on (z, x, y) as RAD-ChestCT has it: (slice to I, row to P, column to L)."""
    stored = array.transpose(0, 2, 1)[::-1].clip(-1000, 1000).astype(np.int16)
    np.savez_compressed(path, ct=np.ascontiguousarray(stored), **more)
    return path
