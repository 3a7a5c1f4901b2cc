"""The CT volumes that int8's ranges are taken from, and others that it is judged on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_export.graphs.run import run_preprocess
from ctclip_export.samples.sample_data import CHEST_CT, fetch, kept_folder
from ctclip_export.samples.scans import Scan, scans_in

FITTING_SEEDS = range(2001, 2005)
JUDGING_SEED = 2005
"""Variations of the sample CT; the parity check's and the demo codebook's have other seeds."""
MOST_SCANS = 16
"""Of a user's folder: more scans hardly widen a range any more, and each takes a run in float32."""


@dataclass(frozen=True)
class Calibration:
    """fitting: scans whose ranges are taken. judging: scans of none of them. source: in words."""

    fitting: tuple[Scan, ...]
    judging: tuple[Scan, ...]
    source: str


def calibration(folder: Path | None) -> Calibration:
    """Scans of a folder, every fourth of them to judge on; without one, of a public chest CT.

    Ranges of noise or of a drawing would fit nothing that a scanner makes.
    Raises: InvalidInput if there are too few scans, or if the public CT cannot be fetched.
    """
    if folder is None:
        sample = _sample()
        fitting = tuple(Scan(sample, seed) for seed in FITTING_SEEDS)
        return Calibration(
            fitting, (Scan(sample), Scan(sample, JUDGING_SEED)),
            f"{len(fitting)} variations of a public CT ({CHEST_CT.package})",
        )  # fmt: skip
    found = scans_in(folder, "--calibration")
    if len(found) < 2:
        raise InvalidInput(
            f"--calibration: {folder} holds 1 CT, expected at least 2.",
            "One gives the ranges and another, which they have not seen, judges them.",
        )
    if len(found) > MOST_SCANS:
        found = [found[i] for i in np.linspace(0, len(found) - 1, MOST_SCANS).astype(int)]
    judging = found[1::4]
    fitting = tuple(scan for scan in found if scan not in judging)
    return Calibration(fitting, tuple(judging), f"{len(fitting)} CTs of the exporter's own")


def _sample() -> Path:
    try:
        return fetch(CHEST_CT, kept_folder())
    except CTClipError as error:
        raise InvalidInput(
            f"--precision int8: no CT to take its ranges from: {error.cause}",
            "Name a folder of CTs: --calibration DIR.",
        ) from error


class Voxels:
    """What the model sees of scans, made one at a time: (1, 1, D, H, W) float32."""

    def __init__(self, preprocess: Path, scans: Sequence[Scan]) -> None:
        """preprocess: the exported graph."""
        self._preprocess = preprocess
        self._scans = scans
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        return len(self._scans)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for scan in self._scans:
            voxels = run_preprocess(self._preprocess, scan.volume())
            self._digest.update(voxels.data)
            yield voxels

    @property
    def sha256(self) -> str:
        """Of all voxels so far: says which they were and tells nothing about them."""
        return self._digest.hexdigest()
