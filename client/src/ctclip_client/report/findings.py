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
