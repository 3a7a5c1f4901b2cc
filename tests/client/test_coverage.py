"""What of a scan the model sees, in words."""

from __future__ import annotations

import numpy as np
import pytest

from ctclip_client import Volume
from ctclip_client.contract import PUBLISHED_GEOMETRY, Geometry
from ctclip_client.coverage import coverage_notes

CUT, SHORT, SINGLE = "only the middle", "short for a chest", "single slice"


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "words"),
    [
        ((240, 480, 480), (1.5, 0.75, 0.75), ()),
        ((240, 512, 512), (1.5, 0.71, 0.71), ()),  # 363.5 mm: cut by a few voxels
        ((1500, 480, 480), (1.0, 0.7, 0.7), (CUT, "360 of 1,500 mm along z")),
        ((200, 480, 700), (1.5, 0.7, 0.7), (CUT, "360 of 490 mm along y")),
        ((480, 1000, 700), (1.0, 0.7, 0.7),
         (CUT, "along z, 360 of 700 mm along x, 360 of 490 mm along y")),
        ((1, 480, 480), (5.0, 0.7, 0.7), (SINGLE, "of 5 mm along z")),
        ((300, 480, 1), (1.0, 0.7, 0.7), (SINGLE, "along y")),
        ((1, 1000, 480), (5.0, 0.7, 0.7), (SINGLE, CUT)),
        ((3, 480, 480), (5.0, 0.7, 0.7), ("15 mm long", SHORT)),
        ((149, 480, 480), (1.0, 0.7, 0.7), (SHORT,)),
        ((150, 480, 480), (1.0, 0.7, 0.7), ()),
    ],
)  # fmt: skip
def test_notes_of_the_published_model(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], words: tuple[str, ...]
) -> None:
    notes = " ".join(coverage_notes(shape, spacing_mm, PUBLISHED_GEOMETRY))
    assert all(word in notes for word in words)
    assert [word in notes for word in (CUT, SHORT, SINGLE)] == [
        word in words for word in (CUT, SHORT, SINGLE)
    ]


def test_another_model_sees_something_else() -> None:
    shape, spacing_mm = (240, 480, 480), (1.5, 0.75, 0.75)
    volume = Volume.from_array(np.zeros(shape, np.int16), spacing_mm, (1, 0))
    (note,) = coverage_notes(volume.voxels.shape, volume.spacing_mm, Geometry((40, 60, 100)))
    assert "60 of 360 mm along z, 45 of 360 mm along x, 75 of 360 mm along y" in note
