"""Every format reads into the same `Stored`, and one file and one line bring a further one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from numpy.typing import NDArray

from ctclip_client import Unreadable, read_volume
from ctclip_client.readers import registry
from ctclip_client.readers.format import Format, Options, Series, Stored
from ctclip_client.readers.to_volume import to_volume

from ..dicom_files import slices, write
from ..nifti_files import chest, save
from ..volume_files import save_itk, save_rad_chestct


def zipped(path: Path) -> Path:
    archive = path.with_suffix(".zip")
    with ZipFile(archive, "w") as file:
        file.write(path, path.name)
    return archive


SAMPLES = {
    "NIfTI": lambda folder: save(folder / "scan.nii.gz", chest(), codes="RAS"),
    "NRRD": lambda folder: save_itk(folder / "scan.nrrd", chest(), codes="RAS"),
    "MetaImage": lambda folder: save_itk(folder / "scan.mha", chest(), codes="RAS"),
    "DICOM": lambda folder: write(folder / "series", slices(chest(), codes="RA", rescale=(1, 0))),
    "archive": lambda folder: zipped(SAMPLES["NIfTI"](folder)),
    "RAD-ChestCT": lambda folder: save_rad_chestct(folder / "scan.npz", chest()),
}
"""Of each format, how to write `chest()`."""


@pytest.mark.parametrize("form", registry.FORMATS, ids=lambda form: form.name)
def test_every_reader_satisfies_the_protocol(form: Format, tmp_path: Path) -> None:
    path = SAMPLES[form.name](tmp_path)
    assert registry.format_of(path) is form
    assert not form.suffixes or path.name.endswith(tuple(form.suffixes))
    first, *_ = form.series(path)
    stored = form.read(path, first, Options(series=first.uid))
    assert (stored.series, stored.voxels().ndim) == (first, 3)
    hu = chest().clip(-1000, 1000) if form.name == "RAD-ChestCT" else chest()
    np.testing.assert_array_equal(to_volume(stored, path, Options()).voxels, hu)
    assert form.read(path, first, Options(as_stored=True, series=first.uid)).affine is None


@pytest.mark.parametrize(
    ("affine", "spacing_mm", "rescale", "message"),
    [
        (np.zeros((4, 4)), (1, 1, 1), None, "no patient axis"),
        (np.eye(4), (1, 1, 0), None, "spacing_mm: z is 0"),
        (np.eye(4), (1, 1, 1), (0, 1), "slope is 0"),
    ],
)
def test_voxels_are_read_last(
    affine: NDArray[np.float64],
    spacing_mm: tuple[float, float, float],
    rescale: tuple[float, float] | None,
    message: str,
) -> None:
    def voxels() -> NDArray[np.int16]:
        raise AssertionError("read for nothing")

    stored = Stored(voxels, spacing_mm, affine, rescale)
    with pytest.raises(Unreadable, match=message):
        to_volume(stored, Path("scan"), Options())


@dataclass(frozen=True)
class Npy:
    """A format that exists in this test only: an array (i, j, k) of scans on L, P, S."""

    name: str = "npy"
    suffixes: tuple[str, ...] = (".npy",)

    def sniff(self, head: bytes, _path: Path, /) -> bool:
        return head.startswith(b"\x93NUMPY")

    def series(self, _path: Path, /) -> tuple[Series, Series]:
        return Series("1.2.3"), Series("1.2.4")

    def read(self, path: Path, series: Series, _options: Options, /) -> Stored:
        affine = np.diag([-0.7, -0.8, 2.5, 1])
        notes = ("The folder also holds 1.2.4.",)
        return Stored(lambda: np.load(path), (0.7, 0.8, 2.5), affine, (1, -1024), notes, series)


def test_a_further_format_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "FORMATS", (*registry.FORMATS, Npy()))
    np.save(tmp_path / "scan", (chest() + 1024).transpose(1, 2, 0))
    volume = read_volume(tmp_path / "scan.npy")
    np.testing.assert_array_equal(volume.voxels, chest() + 1024)
    assert (volume.spacing_mm, volume.rescale) == ((2.5, 0.7, 0.8), (1.0, -1024.0))
    assert volume.recipe() == {
        "orientation": "LPS", "shape": [5, 6, 7],
        "turned": "z is stored axis 3, x is stored axis 1, y is stored axis 2",
        "spacing_mm": [2.5, 0.7, 0.8], "spacing_source": "header", "rescale": [1.0, -1024.0],
        "hu_source": "header: slope 1, intercept -1024", "series": "1.2.3", "sha256": None,
        "hu_percentiles": {
            str(percent): round(float(np.percentile(chest(), percent)), 1)
            for percent in (5, 50, 95)
        },
        "notes": ["The folder also holds 1.2.4."],
    }  # fmt: skip
