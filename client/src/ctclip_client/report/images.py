"""What a page's viewer loads: NIfTI images, in base64."""

from __future__ import annotations

import gzip
from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import Geometry
from ctclip_client.report.view import HU_RANGE, STEP_HU, View

_CT_BYTES = 4_200_000
"""At most, before base64: with the viewer and 18 maps, a page stays below 10 MB."""
_HEADER_BYTES = 352  # 348 and the four that say that no extension follows


def ct_image(view: View) -> tuple[str, float]:
    """The CT as `.nii.gz`, whose scaling gives Hounsfield units, and its steps in HU.

    Steps are doubled until it fits: noise is what does not compress, and it hides coarser steps.
    """
    step = 1
    while True:
        levels = (view.voxels.astype(np.uint16) + step // 2) // step * step
        voxels = np.minimum(levels, 255).astype(np.uint8)
        raw = _nifti(voxels[None], view.spacing_mm, (STEP_HU, HU_RANGE[0]))
        packed = gzip.compress(raw, 6, mtime=0)
        if len(packed) <= _CT_BYTES or step == 128:  # black and white
            return b64encode(packed).decode(), step * STEP_HU
        step *= 2


def maps_image(relevance: NDArray[np.float32], geometry: Geometry) -> str:
    """Relevance maps (F, T, H', W') as `.nii`, each token a voxel and each finding a frame."""
    extent = zip(geometry.volume_shape, geometry.target_spacing_mm, strict=True)
    edges = [
        size * target / count
        for (size, target), count in zip(extent, relevance.shape[1:], strict=True)
    ]
    raw = _nifti(relevance.astype("<f4"), (edges[0], edges[1], edges[2]), (1.0, 0.0))
    return b64encode(raw).decode()


def _nifti(
    array: NDArray[Any], spacing_mm: tuple[float, float, float], scaling: tuple[float, float]
) -> bytes:
    """A file of (frame, z, x, y), z towards S, x towards L, y towards P: its first axis runs along
    x, its second along y, its third along z, and the middle of the grid is the origin."""
    from nibabel import Nifti1Header  # only those who write images pay for its import

    _, depth, height, width = array.shape
    z, x, y = spacing_mm
    # NIfTI's world is (R, A, S), so x and y run backwards.
    affine = np.diag([-x, -y, z, 1.0])
    affine[:3, 3] = (height - 1) / 2 * x, (width - 1) / 2 * y, -(depth - 1) / 2 * z
    header = Nifti1Header(endianness="<")
    header.set_data_dtype(array.dtype)
    header.set_data_shape((height, width, depth, *array.shape[:1][array.shape[0] == 1 :]))
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = scaling
    header["vox_offset"] = _HEADER_BYTES
    block: bytes = header.binaryblock
    return block.ljust(_HEADER_BYTES, b"\0") + array.transpose(2, 3, 1, 0).tobytes(order="F")
