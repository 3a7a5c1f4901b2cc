"""The scans that something is judged on: files, or a real CT and seeded variations of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from ctclip_client import InvalidInput, Volume, read_volume
from ctclip_client.readers import SUFFIXES
from ctclip_export.samples.variations import vary

VARIATIONS = 10


@dataclass(frozen=True)
class Scan:
    """One scan: a file, or its variation of a seed."""

    path: Path
    seed: int | None = None

    @property
    def name(self) -> str:
        return self.path.name if self.seed is None else f"{self.path.name} variation {self.seed}"

    def volume(self) -> Volume:
        """The voxels, as the client reads them."""
        volume = read_volume(self.path)
        return volume if self.seed is None else vary(volume, self.seed)

    def as_file(self, folder: Path, volume: Volume) -> Path:
        """A CT file of this scan: the file itself, or the variation written as NIfTI.

        volume: what `volume()` has given.
        """
        if self.seed is None:
            return self.path
        z, x, y = volume.spacing_mm
        stored = volume.voxels.transpose(1, 2, 0)  # (z, x, y) -> (x, y, z), L-P-S
        image = nibabel.Nifti1Image(stored, np.diag([-x, -y, z, 1.0]))
        image.header.set_xyzt_units("mm")
        path = folder / "variation.nii"
        nibabel.save(image, path)
        with path.open("r+b") as file:  # nibabel scales on its own terms; these are the scan's
            file.seek(112)
            file.write(np.array(volume.rescale, "<f4").tobytes())
        return path


def scans_in(folder: Path, option: str = "--scans") -> list[Scan]:
    """Every NIfTI file of a folder, sorted by name.

    Raises: InvalidInput in the name of the option that the folder came by.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{option}: {folder} is not a folder.", "Name a folder of NIfTI files.")
    found = [Scan(p) for p in sorted(folder.iterdir()) if p.name.lower().endswith(SUFFIXES)]
    if not found:
        raise InvalidInput(
            f"{option}: no .nii or .nii.gz file in {folder}.", "Name a folder of NIfTI files."
        )
    for scan in found:
        if not scan.path.is_file():  # a pipe would be waited for
            raise InvalidInput(
                f"{option}: {scan.path} is no file, or a link to nothing.", "Move it elsewhere."
            )
    return found


def sample_and_variations(sample: Path, count: int = VARIATIONS) -> list[Scan]:
    """The sample CT and variations of other seeds than the demo's codebook was fitted to."""
    return [Scan(sample), *(Scan(sample, seed) for seed in range(1, count + 1))]
