"""Where the time goes inside Triton, by its own statistics.

`Spent` is what one model has done, all its versions together: `requests` that succeeded, `rows`
(a batch of four counts four), `executions` (how often the model ran for them), and nanoseconds of
each phase, summed over requests: one that shared an execution with three others is counted with its
whole length. `success` is all phases of a request together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ctclip_client.errors import CTClipError
from ctclip_client.transport.connection import Connection
from ctclip_server.releases.control import Control

Spent = Counter[str]
COMPUTE = ("compute_input", "compute_infer", "compute_output")
_PHASES = ("success", "queue", *COMPUTE)
_SETTLING_S, _COUNTING_S, _POLL_S = 2.0, 3.0, 0.05


def mean_ms(spent: Spent, *phases: str) -> float:
    """Mean milliseconds that a request spent in these phases together."""
    return sum(spent[phase] for phase in phases) / max(spent["requests"], 1) / 1e6


def figures(spent: Spent) -> dict[str, float]:
    """Counts, and mean milliseconds of a request in each phase."""
    return {
        "requests": spent["requests"],
        "executions": spent["executions"],
        "mean_batch": spent["rows"] / max(spent["executions"], 1),
        "total_ms": mean_ms(spent, "success"),
        **{f"{phase}_ms": mean_ms(spent, phase) for phase in _PHASES[1:]},
    }


def parse(response: Any) -> dict[str, Spent]:
    """Model -> Spent, from Triton's ModelStatisticsResponse."""
    found: dict[str, Spent] = {}
    for entry in response.model_stats:
        told = entry.inference_stats
        counts = {
            "requests": told.success.count, "rows": entry.inference_count,
            "executions": entry.execution_count,
        }  # fmt: skip
        found.setdefault(entry.name, Spent()).update(
            {**counts, **{phase: getattr(told, phase).ns for phase in _PHASES}}
        )
    return found


def read(connection: Connection) -> dict[str, Spent]:
    """What every model has done since the server started, once the numbers no longer change:
    Triton counts a request a little after it has answered. Raises: CTClipError.
    """
    end_s = time.monotonic() + _SETTLING_S
    with Control(connection) as control:
        found = parse(control.statistics())
        while time.monotonic() < end_s:
            time.sleep(_POLL_S)
            before, found = found, parse(control.statistics())
            if found == before:
                break
    return found


def count(connection: Connection) -> Callable[[Sequence[str], int], dict[str, Spent]]:
    """Begin to count. The function that is returned takes the names of models and how many requests
    each of them was sent; it waits until so many are counted, and returns what was done since by
    every model that was asked. Empty where the server does not tell, or has gone.
    """

    def since(models: Sequence[str], requests: int) -> dict[str, Spent]:
        end_s = time.monotonic() + _COUNTING_S
        with suppress(CTClipError):
            while before:
                now = read(connection)
                changes = ((name, now[name] - before.get(name, Spent())) for name in now)
                spent = {name: done for name, done in changes if done["requests"]}
                counted = [spent.get(name, Spent())["requests"] >= requests for name in models]
                if all(counted) or time.monotonic() > end_s:
                    return spent
        return {}

    before: dict[str, Spent] = {}
    with suppress(CTClipError):  # restricted, for instance; latencies are still to be had
        before = read(connection)
    return since
