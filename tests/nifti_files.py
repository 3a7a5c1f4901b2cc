"""NIfTI files for tests, made by nibabel from arrays on the patient's axes, and damaged at will."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from ctclip_client import Volume

# Offsets and types of NIfTI-1 header fields.
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"),
    "pixdim": (76, "8f"), "vox_offset": (108, "f"), "scl_slope": (112, "f"),
    "scl_inter": (116, "f"), "xyzt_units": (123, "B"), "descrip": (148, "80s"),
    "aux_file": (228, "24s"),
    "db_name": (14, "18s"), "intent_name": (328, "16s"), "qform_code": (252, "h"),
    "sform_code": (254, "h"), "quatern_b": (256, "f"), "srow_x": (280, "4f"),
    "srow_y": (296, "4f"), "srow_z": (312, "4f"), "magic": (344, "4s"),
}  # fmt: skip


def chest(shape: tuple[int, int, int] = (5, 6, 7), seed: int = 0) -> NDArray[np.int16]:
    """(z, x, y) int16 Hounsfield units: every value of a chest, all voxels different in place."""
    random = np.random.default_rng(seed)
    tissue = random.choice([-1000, -850, -100, 40, 300], shape, p=[0.3, 0.2, 0.2, 0.2, 0.1])
    return (tissue + random.integers(-9, 10, shape)).astype(np.int16)


def save(
    path: Path,
    array: NDArray[Any],
    spacing_mm: tuple[float, float, float] = (2.5, 0.7, 0.8),
    codes: str = "LPS",
    version: int = 1,
) -> Path:
    """Write an array on (z, x, y) with its stored axes running towards `codes`."""
    z, x, y = spacing_mm
    affine = np.diag([-x, -y, z, 1.0])  # LPS voxels to RAS+ millimetres
    affine[:3, 3] = 11, -7, 5
    return save_placed(path, array.transpose(1, 2, 0), affine, codes, version)


def save_placed(
    path: Path, array: NDArray[Any], affine: NDArray[Any], codes: str = "LPS", version: int = 1
) -> Path:
    """Write an array (i, j, k) that an affine places, turned until its axes run towards `codes`."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(array, affine, dtype=array.dtype)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(codes)))
    turned = image.as_reoriented(turn)
    turned.header.set_xyzt_units("mm")
    assert "".join(nibabel.aff2axcodes(turned.affine)) == codes
    nibabel.save(turned, path)
    return path


def save_volume(path: Path, volume: Volume, codes: str = "LPS") -> Path:
    """Write a volume as whole Hounsfield units."""
    slope, intercept = volume.rescale
    hu = (volume.voxels * slope + intercept).astype(np.int16)
    return save(path, hu, volume.spacing_mm, codes)


def copies(path: Path, count: int) -> list[Path]:
    """The file under so many names: scans of their own, which take no room."""
    names = [path.with_name(f"{number}-{path.name}") for number in range(count)]
    for name in names:
        name.hardlink_to(path)
    return names


def edit(path: Path, **fields: Any) -> Path:
    """Overwrite header fields of an uncompressed NIfTI-1 file."""
    content = bytearray(path.read_bytes())
    for name, value in fields.items():
        offset, form = FIELDS[name]
        values = value if isinstance(value, tuple | list) else (value,)
        struct.pack_into(f"<{form}", content, offset, *values)
    path.write_bytes(content)
    return path
