"""One scored scan, as `ctclip predict` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctclip_client.results import Classification
from ctclip_client.volume import Source, recipe


@dataclass(frozen=True, eq=False)
class Prediction:
    """Scores of one file, with what is left to tell once its voxels are gone.

    maps_index: the `relevance.json` that names its maps, where it has any.
    coverage: what is to be said of how much of it the model has seen.
    """

    path: str
    scores: Classification
    spacing_mm: tuple[float, float, float]
    rescale: tuple[float, float]
    source: Source
    read_ms: float
    maps_index: Path | None = None
    maps_ms: float = 0.0
    coverage: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the scan, a sentence each."""
        return (*self.source.notes, *self.coverage)

    @property
    def timings_ms(self) -> dict[str, float]:
        """Milliseconds of each stage, files included. Reading a scan overlaps with the work on
        the one before, so the totals of many scans are more than what passed on the clock."""
        stages = {"read": self.read_ms, **self.scores.timings_ms}
        total = stages.pop("total") + self.read_ms + self.maps_ms
        maps = {} if self.maps_index is None else {"maps": self.maps_ms}
        return {**stages, **maps, "total": total}

    def to_json(self, *, embedding: bool) -> dict[str, object]:
        """The object of the contract."""
        content: dict[str, object] = {"path": self.path, **self.scores.to_json()}
        if embedding:
            content["image_embedding"] = self.scores.image_embedding.tolist()
        if self.maps_index is not None:
            content["relevance"] = str(self.maps_index)
        read_so = recipe(self.spacing_mm, self.rescale, self.source)
        content["recipe"] = {**read_so, "notes": list(self.notes)}
        content["timings_ms"] = {name: round(ms, 3) for name, ms in self.timings_ms.items()}
        return content
