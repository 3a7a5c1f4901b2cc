"""From requests to numbers: percentiles, throughput, errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ctclip_bench.load.load import Sample
from ctclip_bench.load.statistics import Spent
from ctclip_client.errors import CTClipError

PERCENTILES = (50, 95, 99)
FEW = 100
"""Below so many requests the 99th percentile is little more than the largest value."""


def latency(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, mean, least and largest of one value at least.

    Percentiles by linear interpolation (NumPy's default).
    """
    values = np.asarray(milliseconds, np.float64)
    found = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {
        **found,
        "mean": float(values.mean()),
        "least": float(values.min()),
        "largest": float(values.max()),
    }


@dataclass(frozen=True)
class Level:
    """One load, measured.

    n: requests answered; latency_ms is theirs, None if there was none.
    units: volumes or texts in one request. throughput_per_s: units answered, over the time from
    the first request to the last answer.
    errors: class of error -> how often. wrong: answers that were not those whose parity was shown.
    stages: model -> Triton's own statistics, None where the server does not tell.
    client_ms: medians of what the client measured itself.
    failure: why it could not be measured, in words without the server's address; "" if it was.
    """

    name: str
    load: Mapping[str, float | str]
    units: int
    n: int
    latency_ms: Mapping[str, float] | None
    throughput_per_s: float
    duration_s: float
    errors: Mapping[str, int]
    wrong: Sequence[str]
    first_error: CTClipError | None
    client_ms: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, Spent] | None = None
    failure: str = ""


def make_level(
    name: str,
    load: Mapping[str, float | str],
    units: int,
    samples: Sequence[Sample],
    stages: Mapping[str, Spent] | None,
) -> Level:
    """Summarise the requests of one level."""
    answered = [sample for sample in samples if sample.error is None]
    failed = [sample.error for sample in samples if sample.error is not None]
    duration_s = 0.0
    if samples:
        duration_s = max(s.end_s for s in samples) - min(s.start_s for s in samples)
    parts = answered[0].parts_ms if answered else ()
    times = [(sample.end_s - sample.start_s) * 1000 for sample in answered]
    return Level(
        name=name,
        load=load,
        units=units,
        n=len(answered),
        latency_ms=latency(times) if times else None,
        throughput_per_s=len(answered) * units / duration_s if duration_s else 0.0,
        duration_s=duration_s,
        errors=dict(Counter(type(error).__name__ for error in failed)),
        wrong=[sample.complaint for sample in answered if sample.complaint],
        first_error=failed[0] if failed else None,
        client_ms={key: float(np.median([s.parts_ms[key] for s in answered])) for key in parts},
        stages=stages,
    )
