"""The findings of a scan as rows of a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctclip_client.system.terminal import printable
from ctclip_client.thresholds import Thresholds


@dataclass(frozen=True)
class FindingRow:
    """frame: its place among the maps. above: whether the probability reaches the threshold, None
    where there is none."""

    name: str
    frame: int
    probability: float
    threshold: float | None
    above: bool | None

    @property
    def digits(self) -> int:
        """Decimals that tell the probability from its threshold: three, more if need be."""
        if self.threshold is None or self.threshold == self.probability:
            return 3
        told = (n for n in range(3, 6) if f"{self.threshold:.{n}f}" != f"{self.probability:.{n}f}")
        return next(told, 6)


def finding_rows(
    findings: Sequence[tuple[str, float]], thresholds: Thresholds | None
) -> list[FindingRow]:
    """findings: names and probabilities. The most probable is the first."""
    rows = []
    for frame, (name, probability) in enumerate(findings):
        threshold = thresholds.values.get(name) if thresholds else None
        above = thresholds.positive(name, probability) if thresholds else None
        rows.append(FindingRow(printable(name), frame, probability, threshold, above))
    return sorted(rows, key=lambda row: -row.probability)
