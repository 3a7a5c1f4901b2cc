"""What of a scan the model sees, in words."""

from __future__ import annotations

import numpy as np
import pytest

from ctclip_client import Volume
from ctclip_client.contract import PUBLISHED_GEOMETRY, Geometry
from ctclip_client.coverage import coverage_notes, kept_mm

CUT, SHORT, SINGLE = "only the middle", "short for a chest", "single slice"
NARROW = "narrow for a chest"


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "words"),
    [
        ((240, 480, 480), (1.5, 0.75, 0.75), ()),
        ((240, 512, 512), (1.5, 0.71, 0.71), ()),  # 363.5 mm: cut by a few voxels
        ((1500, 480, 480), (1.0, 0.7, 0.7), (CUT, "1,500 mm along z (570 to 930 from")),
        ((200, 480, 700), (1.5, 0.7, 0.7), (CUT, "360 of 490 mm along y")),
        ((480, 1000, 700), (1.0, 0.7, 0.7),
         (CUT, "along z (60 to 420 from the foot end), 360 of 700 mm along x, 360 of 490 mm ")),
        ((1, 480, 480), (5.0, 0.7, 0.7), (SINGLE, "of 5 mm along z")),
        ((240, 130, 480), (1.5, 0.7, 0.7), ("91 × 336 mm", NARROW)),
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
    assert [word in notes for word in (CUT, SHORT, SINGLE, NARROW)] == [
        word in words for word in (CUT, SHORT, SINGLE, NARROW)
    ]


def test_another_model_sees_something_else() -> None:
    shape, spacing_mm = (240, 480, 480), (1.5, 0.75, 0.75)
    volume = Volume.from_array(np.zeros(shape, np.int16), spacing_mm, (1, 0))
    (note,) = coverage_notes(volume.voxels.shape, volume.spacing_mm, Geometry((40, 60, 100)))
    assert "60 of 360 mm along z (150 to 210 from the foot end), 45 of 360 mm along x" in note


def test_what_the_crop_keeps_is_counted_in_the_servers_voxels() -> None:
    """64 slices of 6 mm are 256 of 1.5 mm, of which the middle 240 are kept: 12 mm less each end;
    333 voxels of 0.9 mm are 399 of 0.75 mm, all kept."""
    kept = kept_mm((64, 333, 1000), (6.0, 0.9, 0.7), PUBLISHED_GEOMETRY)
    assert kept["z"] == (12.0, 372.0)
    assert kept["x"] == (0.0, pytest.approx(299.7))
    low, high = kept["y"]  # 700 mm: 933 voxels of 0.75027 mm, from the 226th on
    assert (low, high) == (round(226 * 700 / 933, 1), round(706 * 700 / 933, 1))
