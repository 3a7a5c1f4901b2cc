"""What is recorded of how a scan was read, and what the guards look at: what the model sees."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from ctclip_client import InvalidInput, Unreadable, Volume, read_volume
from ctclip_client.cli.flag_values import add_reading_options, reading_options
from ctclip_client.cli.predictions import Prediction
from ctclip_client.contract import PUBLISHED_GEOMETRY, Geometry
from ctclip_client.readers.hounsfield import implausible, sampled_hu
from ctclip_client.readers.middle import check_middle
from ctclip_client.results import Classification

from ..nifti_files import chest, save

UPPER, LOWER = "upper end of what the model sees", "lower end of what the model sees"


@pytest.fixture(scope="module")
def body(chest_ct: Path) -> tuple[NDArray[np.int16], tuple[float, ...], tuple[float, float]]:
    """The public CT with every 2nd voxel in plane: from the liver to above the lungs."""
    volume = read_volume(chest_ct)
    z, x, y = volume.spacing_mm
    return volume.voxels[:, ::2, ::2], (z, 2 * x, 2 * y), volume.rescale


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [(0, 133, []), (0, 70, [UPPER]), (60, 133, [LOWER]), (50, 111, [LOWER, UPPER])],
)
def test_a_chest_that_is_cut_is_told(body: Any, first: int, last: int, words: list[str]) -> None:
    voxels, spacing_mm, rescale = body
    notes = check_middle(voxels[first:last], spacing_mm, rescale, "scan")
    assert [UPPER in " ".join(notes), LOWER in " ".join(notes)] == [UPPER in words, LOWER in words]


def test_an_abdomen_is_refused(body: Any) -> None:
    """The lowest 85 mm; then a body twice as long below it, so that the middle is no chest."""
    voxels, spacing_mm, rescale = body
    for scan in (voxels[:34], np.concatenate([voxels[:34]] * 12 + [voxels])):
        with pytest.raises(Unreadable, match="no lung in the middle") as caught:
            check_middle(scan, spacing_mm, rescale, "scan")
        assert "any_region=True" in caught.value.remedy
        (note,) = check_middle(scan, spacing_mm, rescale, "scan", any_region=True)
        assert "There is no lung" in note


def test_a_cushion_is_no_lung(body: Any) -> None:
    """The abdomen, on foam of lung's density that fills the space behind it."""
    voxels, spacing_mm, rescale = body
    scan = voxels[:34].copy()
    behind = scan[:, :, -40:]
    behind[behind * rescale[0] + rescale[1] < -400] = (-850 - rescale[1]) / rescale[0]
    with pytest.raises(Unreadable, match="no lung in the middle"):
        check_middle(scan, spacing_mm, rescale, "scan")


def _with_noise(hu: NDArray[np.int16], sd: float, lowest: int = -1024) -> NDArray[np.int16]:
    """hu: (z, x, y). sd: of white noise, in HU. lowest: where the scanner clips."""
    seed = 20
    print(f"seed {seed}")
    noise = np.random.default_rng(seed).standard_normal(hu.shape, np.float32)
    return np.clip(np.rint(hu + np.float32(sd) * noise), lowest, 3071).astype(np.int16)


def _coarse(body: Any) -> tuple[NDArray[np.int16], tuple[float, ...]]:
    """Hounsfield units with every 4th voxel in plane of the public CT, and their spacing."""
    voxels, (z, x, y), (slope, intercept) = body
    hu = (voxels[:, ::2, ::2] * slope + intercept).astype(np.int16)
    return hu, (z, 2 * x, 2 * y)


@pytest.mark.parametrize(
    ("sd", "denser", "lowest"),
    [(80, 0, -1024), (30, -60, -1024), (60, -80, -1000), (150, 200, -1024)],
)
def test_lung_is_lung_whatever_the_noise_and_the_disease(
    body: Any, sd: float, denser: int, lowest: int
) -> None:
    """Thin slices, sharp kernels and low doses; emphysema (−60) and congestion (200 HU)."""
    hu, spacing_mm = _coarse(body)
    hu = np.where((hu > -960) & (hu < -600), hu + denser, hu).astype(np.int16)
    noisy = _with_noise(hu, sd, lowest)
    assert check_middle(noisy, spacing_mm, (1, 0), "scan") == ()
    assert implausible(sampled_hu(noisy, (1, 0)), (1, 0)) == ""


@pytest.mark.parametrize(("sd", "lowest"), [(0, -1024), (150, -1024), (150, -1000)])
def test_gas_in_the_bowel_is_no_lung_whatever_the_noise(body: Any, sd: float, lowest: int) -> None:
    """Clipped below, noise lifts the mean of air far above −1000 HU."""
    hu, spacing_mm = _coarse(body)
    hu = hu[:34].copy()
    z, x, y = np.ogrid[tuple(map(slice, hu.shape))]
    for side in (44, 64, 84):
        round_mm2 = ((x - side) * spacing_mm[1]) ** 2 + ((y - 50) * spacing_mm[2]) ** 2
        hu[(round_mm2 < 25**2) & (z >= 0)] = -1000  # 0.17 litres each
    with pytest.raises(Unreadable, match="no lung in the middle"):
        check_middle(_with_noise(hu, sd, lowest), spacing_mm, (1, 0), "scan")


def test_any_region_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    """Noise of every tissue: plausible as Hounsfield units, and no chest."""
    path = save(tmp_path / "scan.nii.gz", chest((40, 40, 40)), (4.0, 4.0, 4.0))
    with pytest.raises(Unreadable, match="no lung in the middle 160 × 160 × 160 mm"):
        read_volume(path)
    assert read_volume(path, any_region=True).voxels.shape == (40, 40, 40)


def test_the_recipe_says_where_everything_comes_from(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii.gz", chest(), codes="LAS")
    recipe = read_volume(path).recipe()
    assert recipe["turned"] == "z is stored axis 3, x is stored axis 1, y is stored axis 2 reversed"
    assert (recipe["shape"], recipe["spacing_source"]) == ([5, 6, 7], "header")
    assert recipe["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    percentiles = cast(dict[str, float], recipe["hu_percentiles"])
    assert list(percentiles) == ["5", "50", "95"]
    assert percentiles["50"] == pytest.approx(np.median(chest()), abs=0.1)
    stored = read_volume(path, as_stored=True, spacing_mm=(2.5, 0.7, 0.8)).recipe()
    assert stored["turned"] == "z is stored axis 3, x is stored axis 1, y is stored axis 2"
    assert stored["spacing_source"] == "given by the caller"


def test_the_digest_is_of_the_whole_file(tmp_path: Path) -> None:
    """Plain and packed, also with bytes behind what is read of it."""
    for name in ("scan.nii", "scan.nii.gz"):
        path = save(tmp_path / name, chest())
        path.write_bytes(path.read_bytes() + bytes(600_000) + b"behind")
        sha256 = read_volume(path).source.sha256
        assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def prediction(volume: Volume, geometry: Geometry) -> Prediction:
    provenance = SimpleNamespace(geometry=lambda: (geometry, (1, 1, 1)))
    scores = cast(Classification, SimpleNamespace(provenance=provenance))
    return Prediction("scan", scores, volume.spacing_mm, volume.rescale, volume.source, 0.0)


def test_the_card_says_what_the_model_saw(tmp_path: Path) -> None:
    hu = chest((50, 20, 20))
    path = tmp_path / "scan.nii.gz"
    volume = read_volume(save(path, hu, (15.0, 3.0, 3.0), codes="RAI"), any_region=True)
    card = prediction(volume, PUBLISHED_GEOMETRY)
    assert card.recipe["seen_mm"] == {"z": [195, 555], "x": [0, 60], "y": [0, 60]}
    text = "\n".join(card.card_lines())
    for words in (
        "orientation RAI: z is stored axis 3 reversed, x is stored axis 1 reversed",
        "50 × 20 × 20 voxels of 15 × 3 × 3 mm (z × x × y; spacing: header)",
        "Hounsfield units: header: slope 1, intercept 0; ",
        "percentiles 5/50/95: -1006/-109/300 HU",
        "the model saw z 195 to 555, x 0 to 60, y 0 to 60 mm",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metadata", "T", "--spacing", "1,1,1"], "--metadata and --spacing exclude"),
        (["--metadata", "T", "--slope", "1"], "--metadata and --slope exclude"),
        (["--metadata", "T", "--intercept", "0"], "--metadata and --intercept exclude"),
        (["--metadata", "absent.csv"], "No such file"),
        (["--slope", "1"], "belong together"),
        (["--as-stored"], "belong together"),
    ],
)
def test_flags_that_exclude_each_other(flags: list[str], message: str) -> None:
    parser = argparse.ArgumentParser()
    add_reading_options(parser, "reading")
    with pytest.raises(InvalidInput, match=message):
        reading_options(parser.parse_args(flags))


def test_flags_are_the_keywords_of_read_volume(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_reading_options(parser, "reading")
    path = save(tmp_path / "scan.nii.gz", chest())
    for flags in (
        [], ["--any-region"], ["--as-stored", "--spacing", "2.5,0.7,0.8"],
        ["--slope", "1", "--intercept", "0"],
    ):  # fmt: skip
        volume = read_volume(path, **reading_options(parser.parse_args(flags)))
        np.testing.assert_array_equal(volume.voxels, chest())
    table = tmp_path / "metadata.csv"
    table.write_text(
        "VolumeName,RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing\n"
        'scan.nii.gz,1,0,"[0.7, 0.7]",2\n'
    )
    volume = read_volume(path, **reading_options(parser.parse_args(["--metadata", str(table)])))
    assert volume.spacing_mm == (2.0, 0.7, 0.7)
