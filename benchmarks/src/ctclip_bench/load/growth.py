"""`ctclip bench growth`: how the cost of an answer grows, one axis at a time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ctclip_bench.load.answers import Question
from ctclip_bench.load.closed_loop import Asked, ClosedLoop, per_s
from ctclip_bench.load.judged import Judged
from ctclip_bench.load.session import Session
from ctclip_bench.load.worker import Worker
from ctclip_bench.results.result import Parity, Result, Row, Times
from ctclip_client import Finding, Volume
from ctclip_client.contract import PREPROCESS, SPACING_MM_RANGE
from ctclip_client.errors import CTClipError, DeadlineExceeded

AXES: Mapping[str, tuple[int, ...]] = {
    "slices": (64, 128, 300, 640, 1000, 1617),
    "matrix": (512, 768, 1024),
    "prompts": (2, 20, 200, 2000, 10_000),
    "clients": (1, 2, 4),
    "scans": (1, 2, 4, 8),
}
"""slices, matrix: of the volume (matrix² in a slice). prompts: sentences, two for each finding.
clients: at once. scans: one after another by one client."""
BASE_SLICES, BASE_MATRIX = 300, 512
QUICK: Mapping[str, tuple[int, ...]] = {
    "slices": (20, 40, 80), "matrix": (32, 64), "prompts": (2, 8), "clients": (1, 2),
    "scans": (1, 2),
}  # fmt: skip
QUICK_SLICES, QUICK_MATRIX = 24, 48


@dataclass(frozen=True)
class Plan:
    """axes: name -> values. slices, matrix: where they are not the axis. repeats: of each point,
    fewer where limit_s seconds are over first; one answer may take as long, too."""

    axes: Mapping[str, tuple[int, ...]]
    slices: int
    matrix: int
    repeats: int
    limit_s: float


_REPEATS = Parity("PASS", "the first answer to the same question")


@dataclass(frozen=True)
class _Point:
    """What one value of an axis stands for."""

    volume: Volume
    prompts: tuple[Finding, ...] = ()
    clients: int = 1
    scans: int = 1


def resized(volume: Volume, slices: int, matrix: int) -> Volume:
    """The same chest in so many slices of matrix × matrix voxels, each that of the nearest place;
    edges of voxels change so that the field of view stays, as far as a header may say so. The order
    in memory is that of a file (x fastest)."""
    shape = volume.voxels.shape
    wanted = (slices, matrix, matrix)
    z, x, y = (np.arange(n) * old // n for n, old in zip(wanted, shape, strict=True))
    voxels = np.ascontiguousarray(volume.voxels.transpose(0, 2, 1)[np.ix_(z, y, x)])
    low, high = SPACING_MM_RANGE
    spacing_mm = [
        min(max(edge * old / n, 1.01 * low), 0.99 * high)
        for edge, old, n in zip(volume.spacing_mm, shape, wanted, strict=True)
    ]
    return Volume.from_array(voxels.transpose(0, 2, 1), spacing_mm, volume.rescale)


def fit(values: Sequence[float], ms: Sequence[float]) -> dict[str, float]:
    """How times grow: fixed_ms + per_unit_ms · value by least squares, and the power p of
    ms ∝ value^p, the slope of their logarithms. values: two different ones at least."""
    x, y = np.asarray(values, np.float64), np.asarray(ms, np.float64)
    per_unit, fixed = np.polyfit(x, y, 1)
    power, _ = np.polyfit(np.log(x), np.log(y), 1)
    return {"fixed_ms": float(fixed), "per_unit_ms": float(per_unit), "power": float(power)}


def measure(session: Session, sample: Volume, plan: Plan) -> Result:
    """Judge one scan, then walk along the axes. sample: what volumes are made of.

    Raises: CTClipError; a point that takes too long is kept as not run.
    """
    base = resized(sample, plan.slices, plan.matrix)
    judged = _judge(session, base)
    rows: list[Row] = []
    complaints: list[str] = []
    if judged.passed:
        for axis, values in plan.axes.items():
            for row in _axis(session, sample, plan, (axis, values)):
                rows.append(row)
                if row.parity is not None and row.parity.verdict != "PASS":
                    complaints.append(row.name)
    about = {
        "axes": plan.axes, "slices": plan.slices, "matrix": plan.matrix, "repeats": plan.repeats,
        "limit_s": plan.limit_s,
    }  # fmt: skip
    return session.result("growth", judged, rows, about, [base], passed=not complaints)


def _judge(session: Session, base: Volume) -> Judged:
    question = Question.keep(base, session.folder / "base.npy")
    with Worker(session.server) as worker, session.stages.stage("Parity: one scan"):
        (asked,) = worker.ask(ClosedLoop((question,), 1, 1, 0.0, session.repeat))
    session.check_release(asked.release)
    return session.judge([base], [asked.answer])


def _axis(
    session: Session, sample: Volume, plan: Plan, axis: tuple[str, tuple[int, ...]]
) -> Iterator[Row]:
    name, values = axis
    measured: list[Row] = []
    too_long = ""
    brief = replace(session.server, timeout_s=plan.limit_s)
    with Worker(brief) as worker:
        for value in values:
            row = Row(name, f"{name} {value}", {name: value})
            if too_long:
                yield replace(row, not_run=too_long)
                continue
            with session.stages.stage(f"Growth: {name} {value}"):
                point = _point(sample, plan, name, value)
                try:
                    found = replace(row, parity=_REPEATS)
                    row = _measured(session, worker, point, plan, found)
                except DeadlineExceeded:  # this worker asks nothing more
                    row = replace(row, not_run=f"no answer within --limit-s, {plan.limit_s:g} s")
                    too_long = "a smaller one took longer than --limit-s"
            yield row
            measured += [] if row.not_run else [row]
    if too_long:
        _drain(session)
    if len(measured) > 1:
        yield Row(name, "fit", {"axis": name}, figures=_fits(name, measured))


def _point(sample: Volume, plan: Plan, axis: str, value: int) -> _Point:
    slices = value if axis == "slices" else plan.slices
    matrix = value if axis == "matrix" else plan.matrix
    point = _Point(resized(sample, slices, matrix))
    if axis == "prompts":
        pairs = (
            Finding(f"{n}", f"Nodule {n} is present.", f"Nodule {n} is not present.")
            for n in range(1, value // 2 + 1)
        )
        return replace(point, prompts=tuple(pairs))
    if axis == "clients":
        return replace(point, clients=value)
    return replace(point, scans=value) if axis == "scans" else point


def _measured(session: Session, worker: Worker, point: _Point, plan: Plan, row: Row) -> Row:
    """One answer that is not timed, but that the others have to repeat; then the repeats."""
    path = session.folder / f"{row.name}.npy"
    question = Question.keep(point.volume, path, point.prompts)
    once = ClosedLoop((question,), 1, 1, 0.0, session.repeat)
    (first,) = worker.ask(once)
    path.unlink()  # it may be 850 MB, and is in the worker's memory now
    requests = point.clients if point.clients > 1 else point.scans
    loop = replace(
        once, clients=point.clients, requests=requests, limit_s=plan.limit_s,
        expected=(first.answer,),
    )  # fmt: skip
    before = session.statistics()
    rounds: list[list[Asked]] = []
    ms: list[float] = []
    while len(rounds) < plan.repeats and sum(ms) < plan.limit_s * 1000:
        rounds.append(worker.ask(loop))
        ms.append(requests / per_s(rounds[-1]) * 1000)  # first request to last answer
    scans = sum(map(len, rounds))
    spent = session.spent_since(before, [PREPROCESS.name], scans).get(PREPROCESS.name)
    asked = [each for one in rounds for each in one]
    wrong = [each.complaint for each in asked if each.complaint]
    if wrong:
        row = replace(row, parity=replace(_REPEATS, verdict="FAIL", reason=wrong[0]))
    figures: dict[str, Any] = {"bytes_sent": first.sent_bytes, "transport": first.transport}
    if spent is not None:
        figures["preprocess_ms"] = sum(
            spent.mean_ms(phase) for phase in ("compute_input", "compute_infer", "compute_output")
        )
    if requests > 1:
        figures["scans_per_s"] = requests / statistics.median(ms) * 1000
    return replace(row, times_ms=Times.of(ms), figures=figures)


def _fits(axis: str, rows: Sequence[Row]) -> dict[str, float]:
    values = [float(row.settings[axis]) for row in rows]
    found = fit(values, [row.times_ms.p50 for row in rows if row.times_ms is not None])
    preprocess = [row.figures.get("preprocess_ms") for row in rows]
    if axis in ("slices", "matrix") and all(preprocess):
        own = fit(values, [float(ms) for ms in preprocess if ms is not None])
        found |= {f"preprocess_{name}": value for name, value in own.items()}
    return found


def _drain(session: Session) -> None:
    """Wait until the server is done with what took too long: it would slow down what follows."""
    question = Question.keep(
        Volume.from_array(np.zeros((8, 8, 8), np.int16), (9, 9, 9), (1, 0)),
        session.folder / "drain.npy",
    )
    with session.stages.stage("Growth: wait for the server"), Worker(session.server) as worker:
        try:
            worker.ask(ClosedLoop((question,), 1, 1, 0.0, session.repeat))
        except CTClipError:
            return
