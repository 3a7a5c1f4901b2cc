"""Answers of `ctclip_pathologies` and `ctclip_zero_shot` as bytes, and whether one repeats another.

Imports NumPy and the client only: the process that asks (`worker_process`) stays as small as the
client is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ctclip_client import Client, Finding, Scores, Volume

PAIR = 2
"""Logits of a finding: present and absent."""


@dataclass(frozen=True, eq=False)
class Answer:
    """logits (F, 2), probabilities (F,), image_embedding (E,): float32."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    image_embedding: NDArray[np.float32]

    @classmethod
    def of(cls, scores: Scores) -> Self:
        """The numbers of a client's answer."""
        return cls(scores.logits, scores.probabilities, scores.image_embedding)

    def to_bytes(self) -> bytes:
        """Logits, probabilities, embedding, one after the other: (3F + E,) float32."""
        parts = (self.logits.reshape(-1), self.probabilities, self.image_embedding)
        values: NDArray[np.float32] = np.concatenate(parts).astype("<f4")
        return values.tobytes()

    @classmethod
    def from_bytes(cls, raw: bytes, findings: int) -> Self:
        """findings: F. Raises: ValueError for bytes that are no such answer."""
        values = np.frombuffer(raw, "<f4")
        if len(values) <= (PAIR + 1) * findings:
            raise ValueError(f"{len(values)} numbers for {findings} findings")
        logits, probabilities, embedding = np.split(
            values, [PAIR * findings, (PAIR + 1) * findings]
        )
        return cls(logits.reshape(findings, PAIR), probabilities, embedding)


@dataclass(frozen=True)
class Repeat:
    """What a timed answer has to be: the one that was judged, within the release's bounds.

    cosine: the least of the embedding. probability: the largest |difference|.
    """

    cosine: float
    probability: float

    def complaint(self, got: Answer, expected: Answer) -> str:
        """What is wrong, "" if nothing is. NaN passes nothing."""
        if got.probabilities.shape != expected.probabilities.shape:
            shapes = got.probabilities.shape, expected.probabilities.shape
            return f"{shapes[0]} probabilities, expected {shapes[1]}"
        a, b = (each.image_embedding.astype(np.float64) for each in (got, expected))
        cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        if not cosine >= self.cosine:
            return f"cosine of the embedding {cosine:.6f}, expected {self.cosine}"
        largest = float(np.abs(got.probabilities - expected.probabilities).max())
        if not largest <= self.probability:
            return f"|Δprobability| {largest:.1e}, allowed {self.probability:g}"
        return ""


@dataclass(frozen=True)
class Question:
    """A volume on disk, and sentences for it; without them it is scored by the release's own bank.

    axes: of the stored array, those of the volume (z, x, y) in the order of their strides: packing
    an array that lies otherwise in memory would cost another time.
    """

    stored: Path
    axes: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    rescale: tuple[float, float]
    prompts: tuple[Finding, ...] = ()

    @classmethod
    def keep(cls, volume: Volume, path: Path, prompts: Sequence[Finding] = ()) -> Self:
        """Write a volume to a .npy. Raises: OSError."""
        strides = [abs(stride) for stride in volume.voxels.strides]
        z, x, y = sorted(range(3), key=lambda axis: -strides[axis])
        np.save(path, volume.voxels.transpose(z, x, y))
        return cls(path, (z, x, y), volume.spacing_mm, volume.rescale, tuple(prompts))

    def volume(self) -> Volume:
        """Read it."""
        voxels = np.load(self.stored).transpose(np.argsort(self.axes))
        return Volume.from_array(voxels, self.spacing_mm, self.rescale)

    def ask(self, client: Client, volume: Volume) -> Scores:
        """volume: as `volume()` has read it. Raises: CTClipError."""
        if self.prompts:
            return client.zero_shot(volume, self.prompts)
        return client.pathologies(volume)
