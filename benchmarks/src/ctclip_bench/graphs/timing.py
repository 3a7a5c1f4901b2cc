"""Time of one call, on a CPU by the clock, on a GPU by CUDA events; peers take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Work = Callable[[], object]
Measure = Callable[[Work], float]
"""Milliseconds that a call takes, until its results are there."""


def measure_on(device: str) -> Measure:
    """device: "cpu" or "cuda"."""
    return _by_events if device == "cuda" else by_clock


def by_clock(work: Work) -> float:
    """Milliseconds, for work that returns when it is done."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def _by_events(work: Work) -> float:
    event: Any = torch.cuda.Event  # without types
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def in_turn(
    works: Mapping[str, Work],
    measure: Measure,
    *,
    rounds: int,
    warmup: int = 1,
    limit_s: float = float("inf"),
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Milliseconds of each work, one of each in every round: whatever slows the machine down for a
    while slows all of them, and ratios of medians stay right.

    A round that begins before limit_s is over is finished; there is one at least.
    advance: called once for each measured call.
    """
    for work in works.values():
        for _ in range(warmup):
            work()
    times: dict[str, list[float]] = {name: [] for name in works}
    begun = time.perf_counter()
    for number in range(rounds):
        if number and time.perf_counter() - begun > limit_s:
            break
        for name, work in works.items():
            times[name].append(measure(work))
            advance(1)
    return times
