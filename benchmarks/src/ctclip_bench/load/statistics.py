"""Where the time goes inside Triton, by its own statistics."""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

_PHASES = ("success", "queue", "compute_input", "compute_infer", "compute_output")
_SETTLING_S = 2.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Spent:
    """What one model has done, all its versions together.

    requests: that succeeded. rows: inferences (a batch of four counts four). executions: how often
    the model ran for them. The rest are nanoseconds, summed over requests: a request that shared
    an execution with three others is counted with its whole length.
    """

    requests: int = 0
    rows: int = 0
    executions: int = 0
    success_ns: int = 0
    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: Spent) -> Spent:
        return Spent(*map(operator.sub, astuple(self), astuple(other)))

    @property
    def batch(self) -> float:
        """Mean size of the batches that ran."""
        return self.rows / self.executions if self.executions else 0.0

    def mean_ms(self, phase: str) -> float:
        """Mean milliseconds a request spent in `queue`, `compute_infer`, …, or `success`: in all of
        it together.
        """
        return float(getattr(self, f"{phase}_ns")) / max(self.requests, 1) / 1e6

    def figures(self) -> dict[str, float]:
        """Counts, and mean milliseconds of a request in each phase."""
        phases = {f"{phase}_ms": self.mean_ms(phase) for phase in _PHASES[1:]}
        return {
            "requests": self.requests,
            "executions": self.executions,
            "mean_batch": self.batch,
            "total_ms": self.mean_ms("success"),
            **phases,
        }


def read_statistics(response: Any) -> dict[str, Spent]:
    """Model -> Spent, from Triton's ModelStatisticsResponse."""
    found: dict[str, Spent] = {}
    for entry in response.model_stats:
        phases = (getattr(entry.inference_stats, phase).ns for phase in _PHASES)
        spent = Spent(
            entry.inference_stats.success.count, entry.inference_count, entry.execution_count,
            *phases,
        )  # fmt: skip
        found[entry.name] = found.get(entry.name, Spent()) + spent
    return found


def difference(later: Mapping[str, Spent], earlier: Mapping[str, Spent]) -> dict[str, Spent]:
    """What happened between two readings, of the models that were asked in between."""
    changes = {name: spent - earlier.get(name, Spent()) for name, spent in later.items()}
    return {name: spent for name, spent in changes.items() if spent.requests}


def settled(read: Any) -> dict[str, Spent]:
    """A reading that no longer changes: Triton counts a request a little after it has answered."""
    last: dict[str, Spent] = read()
    end = time.monotonic() + _SETTLING_S
    while time.monotonic() < end:
        time.sleep(_POLL_S)
        now: dict[str, Spent] = read()
        if now == last:
            break
        last = now
    return last
