"""One scored scan, as `ctclip predict` writes it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ctclip_client.coverage import kept_mm
from ctclip_client.errors import ServerError
from ctclip_client.results import Classification
from ctclip_client.volume import Source, recipe


@dataclass(eq=False)
class Prediction:
    """Scores of one file, with what is left to tell once its voxels are gone.

    maps_index: the `relevance.json` that names its maps, where it has any. page: its report. Both
    are set, with their times, when they are written; nothing else changes.
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
    page: Path | None = None
    page_ms: float = 0.0
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
        total = stages.pop("total") + self.read_ms + self.maps_ms + self.page_ms
        maps = {} if self.maps_index is None else {"maps": self.maps_ms}
        page = {} if self.page is None else {"report": self.page_ms}
        return {**stages, **maps, **page, "total": total}

    @cached_property
    def answer(self) -> dict[str, Any]:
        """The object of the contract without what is written beside: page, journal and `--json`
        take it from here."""
        return {"path": self.path, **self.scores.to_json(), "recipe": self.recipe}

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """How the scan was read, and what the model has seen of it: `seen_mm` as in
        `coverage.kept_mm`, empty where the server does not say what its model sees."""
        read_so = recipe(self.spacing_mm, self.rescale, self.source)
        seen_mm: dict[str, list[float]] = {}
        if self.source.shape:
            with suppress(ServerError):
                geometry, _ = self.scores.provenance.geometry()
                kept = kept_mm(self.source.shape, self.spacing_mm, geometry)
                seen_mm = {axis: list(ends) for axis, ends in kept.items()}
        return {**read_so, "seen_mm": seen_mm, "notes": list(self.notes)}

    def card_lines(self) -> list[str]:
        """The same for a person, a few lines; the notes are not among them."""
        source = self.source
        edges = " × ".join(f"{edge:g}" for edge in self.spacing_mm)
        size = " × ".join(map(str, source.shape))
        lines = [] if source.series is None else [f"series {source.series}"]
        lines += [
            f"orientation {source.orientation}" + (f": {source.turned}" if source.turned else ""),
            f"{size} voxels of {edges} mm (z × x × y; spacing: {source.spacing_source})",
            f"Hounsfield units: {source.hu_source}",
        ]
        if source.hu_percentiles:
            percents, values = zip(*source.hu_percentiles, strict=True)
            lines[-1] += (
                f"; percentiles {'/'.join(map(str, percents))}: "
                f"{'/'.join(f'{value:.0f}' for value in values)} HU"
            )
        seen_mm = self.recipe["seen_mm"]
        ends = [f"{axis} {low:.0f} to {high:.0f}" for axis, (low, high) in seen_mm.items()]
        if ends:
            lines.append(
                f"the model saw {', '.join(ends)} mm, from the scan's foot end, right and front"
            )
        return lines

    def to_json(self, *, embedding: bool) -> dict[str, object]:
        """The object of the contract."""
        content = dict(self.answer)
        if embedding:
            content["image_embedding"] = self.scores.image_embedding.tolist()
        if self.maps_index is not None:
            content["relevance"] = str(self.maps_index)
        if self.page is not None:
            content["report"] = str(self.page)
        content["timings_ms"] = {name: round(ms, 3) for name, ms in self.timings_ms.items()}
        return content
