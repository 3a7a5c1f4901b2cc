"""Scans that are read and preprocessed once, on disk, for all steps of a parity check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_bench.parity.inputs import NoVerdict, ParityInputs
from ctclip_client import Volume
from ctclip_client.contract import PREPROCESS
from ctclip_client.system.progress import Advance
from ctclip_export.graphs.run import run_preprocess
from ctclip_export.samples.scans import Scan


@dataclass(frozen=True)
class PreparedScan:
    """One scan. Its arrays stay on disk: eleven published volumes are 2.4 GB.

    stored: a .npy of the voxels as read, int16 (z, x, y). prepared: a .npy of VOXELS
    (1, 1, D, H, W) float32, by the repository's own preprocessing graph.
    """

    scan: Scan
    stored: Path
    spacing_mm: tuple[float, float, float]
    rescale: tuple[float, float]
    prepared: Path

    def volume(self) -> Volume:
        """As it was read."""
        voxels = np.load(self.stored, mmap_mode="r")
        return Volume.from_array(voxels, self.spacing_mm, self.rescale)

    def voxels(self) -> NDArray[np.float32]:
        """As the repository's graph prepared it."""
        found: NDArray[np.float32] = np.load(self.prepared)
        return found


def keep_volume(scan: Scan, volume: Volume, folder: Path, number: int) -> PreparedScan:
    """Write a volume that was read into a folder, under a number of its own."""
    stored = folder / f"stored-{number}.npy"
    _save(stored, volume.voxels)
    prepared = folder / f"prepared-{number}.npy"
    return PreparedScan(scan, stored, volume.spacing_mm, volume.rescale, prepared)


def read_scans(scans: Sequence[Scan], folder: Path, advance: Advance) -> list[PreparedScan]:
    """Read every scan once. Raises: Unreadable, InvalidInput naming the file."""
    found = []
    for number, scan in enumerate(scans):
        found.append(keep_volume(scan, scan.volume(), folder, number))
        advance(1)
    return found


def preprocess_scans(inputs: ParityInputs, scans: Sequence[PreparedScan]) -> Iterator[bool]:
    """Preprocess every scan once, by the repository's graph. Runs in a process, as a step does."""
    for scan in scans:
        _save(scan.prepared, run_preprocess(inputs.file(PREPROCESS.name), scan.volume()))
        yield True


def _save(path: Path, array: NDArray[Any]) -> None:
    try:
        np.save(path, array)
    except OSError as error:
        raise NoVerdict(
            f"{path} cannot be written: {error.strerror or error}.",
            "Make room on that disk, or set TMPDIR to a folder on another one.",
        ) from error
