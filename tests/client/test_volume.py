"""`Volume` takes what it says and nothing else, and never touches the caller's array."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctclip_client import InvalidInput, Volume
from ctclip_client.contract import PREPROCESS

VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def test_shares_the_callers_memory_and_cannot_write_to_it() -> None:
    mine = VOXELS.copy()
    volume = Volume.from_array(mine, [2.5, 0.7, 0.8], (1, -1024))
    assert np.shares_memory(volume.voxels, mine)
    assert mine.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        volume.spacing_mm = (1, 1, 1)  # type: ignore[misc]
    np.testing.assert_array_equal(mine, VOXELS)
    assert volume.spacing_mm == (2.5, 0.7, 0.8)
    assert volume.rescale == (1.0, -1024.0)
    assert volume.recipe() == {
        "orientation": "array",
        "turned": "",
        "shape": list(VOXELS.shape),
        "spacing_source": "given by the caller",
        "hu_percentiles": {},
        "sha256": None,
        "spacing_mm": [2.5, 0.7, 0.8],
        "rescale": [1.0, -1024.0],
        "hu_source": "given by the caller",
        "series": None,
        "notes": [],
    }


def test_tensors_are_the_contracts() -> None:
    volume = Volume.from_array(VOXELS[::-1], (2.5, 0.7, 0.8), (1, -1024))
    tensors = volume.tensors()
    assert list(tensors) == [tensor.name for tensor in PREPROCESS.inputs]
    assert tensors["VOLUME"] is volume.voxels
    assert (tensors["SPACING"].dtype, tensors["SPACING"].tolist()) == (np.float64, [2.5, 0.7, 0.8])
    assert (tensors["RESCALE"].dtype, tensors["RESCALE"].tolist()) == (np.float32, [1.0, -1024.0])


def test_takes_strided_and_big_endian_arrays() -> None:
    flipped = Volume.from_array(VOXELS[::-1, :, ::2], (1, 1, 1), (1, 0))
    np.testing.assert_array_equal(flipped.voxels, VOXELS[::-1, :, ::2])
    swapped = Volume.from_array(VOXELS.astype(">i2"), (1, 1, 1), (1, 0))
    assert swapped.voxels.dtype == np.int16
    np.testing.assert_array_equal(swapped.voxels, VOXELS)


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (VOXELS.astype(np.float32), "dtype is float32, expected int16"),
        (VOXELS.astype(np.uint16), "dtype is uint16, expected int16"),
        (VOXELS.astype(np.int32), "dtype is int32, expected int16"),
        (VOXELS[0], re.escape("shape is (3, 4), expected three axes")),
        (VOXELS[None], re.escape("shape is (1, 2, 3, 4), expected three axes")),
        (VOXELS[:, :0], re.escape("shape is (2, 0, 4), expected at least one voxel")),
        (VOXELS.tolist(), "got list, expected a numpy array"),
    ],
)
def test_refuses_other_arrays(voxels: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Volume.from_array(voxels, (1, 1, 1), (1, 0))


@pytest.mark.parametrize(
    "spacing_mm",
    [
        (0.05, 1, 1), (1, 20.0, 1), (1, 1, -1), (0, 1, 1), (float("nan"), 1, 1),
        (1, float("inf"), 1), (1, 1), (1, 1, 1, 1), "1,1,1", None, 1.5, ("a", 1, 1),
    ],
)  # fmt: skip
def test_refuses_other_spacings(spacing_mm: Any) -> None:
    with pytest.raises(InvalidInput, match=r"spacing_mm: .*expected"):
        Volume.from_array(VOXELS, spacing_mm, (1, 0))


@pytest.mark.parametrize(
    "rescale",
    [
        (0, 0), (float("nan"), 0), (1, float("nan")), (float("inf"), 0), (1, float("-inf")),
        (1e-60, 0), (1, 1e39), (1,), (1, 2, 3), "10", None,
    ],
)  # fmt: skip
def test_refuses_other_rescales(rescale: Any) -> None:
    with pytest.raises(InvalidInput, match=r"rescale: .*expected"):
        Volume.from_array(VOXELS, (1, 1, 1), rescale)


@given(st.tuples(*[st.floats(0.0500001, 19.99999)] * 3))
def test_keeps_every_spacing_to_the_last_bit(spacing_mm: tuple[float, float, float]) -> None:
    assert Volume.from_array(VOXELS, spacing_mm, (1, 0)).spacing_mm == spacing_mm
