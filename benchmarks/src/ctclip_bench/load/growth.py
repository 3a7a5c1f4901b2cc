"""`ctclip bench growth`: how the cost of an answer grows, one axis at a time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ctclip_bench.load.asking import Asked, ClosedLoop, Question, per_s
from ctclip_bench.load.run import FIRST, Ran, run_predict, write_files
from ctclip_bench.load.session import Session, under_load
from ctclip_bench.load.statistics import COMPUTE, count, mean_ms
from ctclip_bench.load.worker import Worker, start_worker
from ctclip_bench.parity.prepared_scans import keep_volume
from ctclip_bench.results.result import Parity, Result, Row, Times
from ctclip_client import Finding, Volume, read_volume
from ctclip_client.contract import PREPROCESS, SPACING_MM_RANGE
from ctclip_client.errors import CTClipError, DeadlineExceeded


@dataclass(frozen=True)
class Plan:
    """axes: name -> values. slices, matrix: where they are not the axis; run_slices: of the files
    of a run. repeats: of each point, fewer where limit_s seconds are over first; one answer may
    take as long, too."""

    axes: Mapping[str, tuple[int, ...]]
    slices: int
    matrix: int
    repeats: int
    limit_s: float
    run_slices: int


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


def measure(session: Session, plan: Plan) -> Result:
    """Judge one scan, then walk along the axes. session: its one scan is what others are made of.

    Raises: CTClipError; a point that takes too long is kept as not run.
    """
    (scan,) = session.scans
    sample = scan.volume()
    base = keep_volume(scan.scan, resized(sample, plan.slices, plan.matrix), session.folder, 1)
    session = replace(session, scans=[base])
    with start_worker(session.connection) as worker, session.stages.stage("Parity: one scan"):
        (asked,) = worker.ask(ClosedLoop(session.questions()))
    verdict = session.judge([asked.scores])
    rows: list[Row] = []
    if verdict.verdict == "PASS":
        for axis in plan.axes:
            rows += _axis(session, sample, plan, axis)
    return session.result("growth", [verdict], rows, vars(plan))


def _axis(session: Session, sample: Volume, plan: Plan, axis: str) -> Iterator[Row]:
    measured: list[Row] = []
    too_long = ""
    with start_worker(replace(session.connection, timeout_s=plan.limit_s)) as worker:
        for value in plan.axes[axis]:
            row = Row(axis, f"{axis} {value}", {axis: value}, not_run=too_long)
            if not too_long:
                with session.stages.stage(f"Growth: {row.name}"):
                    try:
                        row = _point(session, worker, sample, plan, row)
                        if row.parity is not None and row.parity.verdict == "PASS":
                            measured.append(row)
                    except DeadlineExceeded:  # this worker asks nothing more
                        why = f"no answer within --limit-s, {plan.limit_s:g} s"
                        row = replace(row, not_run=why)
                        too_long = "a smaller one took longer than --limit-s"
            yield row
    if too_long:
        # What took too long still runs there, and would slow down what follows.
        small = Volume.from_array(np.zeros((8, 8, 8), np.int16), (9, 9, 9), (1, 0))
        with (
            session.stages.stage("Growth: wait for the server"),
            suppress(CTClipError),
            session.connection.client() as client,
        ):
            client.pathologies(small)
    if len(measured) > 1:
        yield Row(axis, "fit", {"axis": axis}, figures=_fits(axis, measured))


def _point(session: Session, worker: Worker, sample: Volume, plan: Plan, row: Row) -> Row:
    """One answer that is not timed, but that the others have to repeat; then the repeats."""
    if "scans" in row.settings:
        return _run(session, worker, sample, plan, row)
    at = {"slices": plan.slices, "matrix": plan.matrix, "prompts": 0, "clients": 1}
    at |= row.settings
    pairs = [
        Finding(f"{n}", f"Nodule {n} is present.", f"Nodule {n} is not present.")
        for n in range(1, at["prompts"] // 2 + 1)
    ]
    path = session.folder / f"{row.name}.npy"
    question = Question.keep(resized(sample, at["slices"], at["matrix"]), path, pairs)
    (first,) = worker.ask(ClosedLoop((question,)))
    path.unlink()  # it may be 850 MB, and is in the worker's memory now
    requests = at["clients"]
    loop = ClosedLoop((question,), at["clients"], requests, plan.limit_s)
    spent_since = count(session.connection)
    asked: list[Asked] = []
    ms: list[float] = []
    while len(ms) < plan.repeats and sum(ms) < plan.limit_s * 1000:
        answered = worker.ask(loop)
        asked += answered
        ms.append(requests / per_s(answered) * 1000)  # first request to last answer
    model = PREPROCESS.name
    spent = spent_since([model], len(asked))
    sent = first.scores.transport
    figures: dict[str, Any] = {"bytes_sent": sent.bytes, "transport": sent.kind}
    if model in spent:
        figures["preprocess_ms"] = mean_ms(spent[model], *COMPUTE)
    if requests > 1:
        figures["scans_per_s"] = requests / statistics.median(ms) * 1000
    repeats = Parity("PASS", "the first answer to the same question")
    parity = under_load(repeats, session.complaints(asked, [first.scores]))
    return replace(row, times_ms=Times.of(ms), parity=parity, figures=figures)


def _run(session: Session, worker: Worker, sample: Volume, plan: Plan, row: Row) -> Row:
    """A command over files, from its start to its end."""
    to = session.connection
    if to.tls is not None or to.headers:
        return replace(row, not_run="a command line shows neither TLS nor headers of this server")
    count = row.settings["scans"]
    volume = resized(sample, plan.run_slices, plan.matrix)
    folder = session.folder / f"run-{count}"
    write_files(volume, folder, count)
    path = session.folder / f"{row.name}.npy"
    (first,) = worker.ask(ClosedLoop((Question.keep(read_volume(folder / FIRST), path),)))
    path.unlink()
    ran: list[Ran] = []
    while len(ran) < plan.repeats and sum(each.wall_s for each in ran) < plan.limit_s:
        ran.append(run_predict(replace(session, connection=replace(to, timeout_s=plan.limit_s)),
                               folder))  # fmt: skip
    median = sorted(ran, key=lambda each: each.wall_s)[(len(ran) - 1) // 2]
    asked = [answer for each in ran for answer in each.asked]
    repeats = Parity("PASS", "the first answer to the same question")
    parity = under_load(repeats, session.complaints(asked, [first.scores]))
    times = Times.of([each.wall_s * 1000 for each in ran])
    shape = {"shape_zxy": list(volume.voxels.shape)}
    return replace(row, times_ms=times, parity=parity, figures={**median.figures(), **shape})


def _fits(axis: str, rows: Sequence[Row]) -> dict[str, float]:
    values = [float(row.settings[axis]) for row in rows]
    found = fit(values, [row.times_ms.p50 for row in rows if row.times_ms is not None])
    preprocess = [float(row.figures.get("preprocess_ms", 0)) for row in rows]
    if axis in ("slices", "matrix") and all(preprocess):
        own = fit(values, preprocess)
        found |= {f"preprocess_{name}": value for name, value in own.items()}
    return found
