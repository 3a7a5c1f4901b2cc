"""What rows of ONNX Runtime have in common: times, refusals, a scan."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.sessions import Arrays, Session
from ctclip_bench.gpu.subject import Subject
from ctclip_bench.graphs.timing import Work, by_clock, in_turn
from ctclip_client.contract import PUBLISHED_GEOMETRY
from ctclip_client.doctor.phantom import draw_chest
from ctclip_client.volume import Volume
from ctclip_export.samples.phantom import chest_phantom

_ROUNDS, _LIMIT_S = 10, 8.0


def timed(session: Session, feed: Arrays, outputs: Sequence[str], runs: int) -> dict[str, Any]:
    """For `Rows.add`: milliseconds with bound tensors, and the median from host to host."""
    works: dict[str, Work] = {
        "bound": session.bound(feed, outputs),
        "host": lambda: session.run(feed, outputs),
    }
    times = in_turn(
        works, by_clock, rounds=min(runs, _ROUNDS), warmup=2, limit_s=_LIMIT_S
    )  # ONNX Runtime returns when its stream is done, so the clock tells
    return {
        "milliseconds": times["bound"],
        "host_to_host_ms": statistics.median(times["host"]),
    }


def _refusal(session: Session, feed: Arrays, expected: str) -> dict[str, Any]:
    """Of a graph that has to refuse this, naming the input. Raises: RuntimeError if it answered."""
    try:
        session.run(feed)
    except Exception as error:
        if expected in str(error):
            return {"refused": True, "names": expected}
        raise
    raise RuntimeError("it was answered")


def scan_of(subject: Subject) -> Volume:
    """A scan as scanners make them, 320 slices of 512², for the published geometry; a small one, as
    drawn as this one, for any other.
    """
    if subject.geometry != PUBLISHED_GEOMETRY:
        return chest_phantom(subject.geometry)
    coarse = draw_chest((80, 128, 128), (4.0, 2.8, 2.8), 0)
    voxels = coarse.voxels
    for axis in range(3):
        voxels = voxels.repeat(4, axis)
    return Volume.from_array(voxels, (1.0, 0.7, 0.7), coarse.rescale)


def guard(rows: Rows, row: str, session: Session, feed: Arrays, said: str) -> Callable[[], None]:
    """For `Rows.attempt`: a row that says that the graph refused this, naming `said`."""
    return lambda: rows.add(row, **_refusal(session, feed, said))
