"""`ctclip bench file`: where the time goes between a CT file and its findings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ctclip_bench.load.answers import Answer
from ctclip_bench.load.file_job import INFER, PACK, READ, TO_VOLUME, FileJob, FromFile
from ctclip_bench.load.judged import Judged
from ctclip_bench.load.memory import Peaks, core_seconds, process_memory
from ctclip_bench.load.session import WHOLE_PATH, Session
from ctclip_bench.load.statistics import Spent
from ctclip_bench.load.worker import Worker
from ctclip_bench.results.result import Parity, Result, Row, Times
from ctclip_client import Volume
from ctclip_client.contract import FINDINGS, PATHOLOGIES, PREPROCESS, VISION

TRANSPORT, QUEUE, PREPROCESSING, SEEING, SCORE, REST, WHOLE = (
    "transport", "queue", "preprocess", "vision", "score", "rest", "whole",
)  # fmt: skip
STAGES = (READ, TO_VOLUME, PACK, TRANSPORT, QUEUE, PREPROCESSING, SEEING, SCORE, REST)
"""In their order. queue: of all models. preprocess, vision, score: of their models, with the copies
in and out. transport: what is left between the packed request and the answer: gRPC both ways,
ctclip_check, Triton's own steps between models. (Not by the ensemble's own time, which Triton ends
when it has put a request away, later than its answer.) rest: what is left of the whole, mostly
letting go of shared memory."""
_MODELS = {PREPROCESSING: PREPROCESS.name, SEEING: VISION.name, SCORE: FINDINGS.name}
_NOT_TOLD = "Triton does not tell its statistics, or other requests ran meanwhile"


@dataclass
class _Way:
    """What was measured by one transport."""

    ms: list[dict[str, float]] = field(default_factory=list)
    client_core_s: list[float] = field(default_factory=list)
    server_core_s: list[float] = field(default_factory=list)
    sent_bytes: list[int] = field(default_factory=list)


def stages_ms(found: FromFile, spent: Mapping[str, Spent]) -> dict[str, float]:
    """Milliseconds of each stage, and of WHOLE, which they add up to.

    spent: what Triton has done for this request; empty where nobody knows, and then everything of
    the server is in `rest`.
    """
    ms = {name: found.ms[name] for name in (READ, TO_VOLUME, PACK)}
    names = [step.model.name for step in PATHOLOGIES.steps]
    if all(name in spent and spent[name].requests == 1 for name in WHOLE_PATH):
        inside = {QUEUE: sum(spent[name].mean_ms("queue") for name in names)}
        for stage, model in _MODELS.items():
            phases = ("compute_input", "compute_infer", "compute_output")
            inside[stage] = sum(spent[model].mean_ms(phase) for phase in phases)
        ms |= {TRANSPORT: found.ms[INFER] - sum(inside.values()), **inside}
    return {**ms, REST: found.whole_ms - sum(ms.values()), WHOLE: found.whole_ms}


def measure(session: Session, volumes: Sequence[Volume], repeats: int) -> Result:
    """Judge, and then send every file `repeats` times by each way that the client can take.

    volumes: of session.inputs.scans. Raises: CTClipError.
    """
    inputs, paths = session.inputs, [scan.path for scan in session.inputs.scans]
    plan = {"repeats": repeats, "scans": len(paths)}
    with Worker(session.server) as worker:

        def memory() -> dict[str, int]:
            sizes = {"client": sum(process_memory(worker.process_id).values())}
            if session.server.process_id is not None:
                sizes |= process_memory(session.server.process_id)
            return sizes

        with session.stages.stage("Parity: every scan once", len(paths)) as advance:
            first = [worker.ask(FileJob(path, True), advance) for path in paths]
        session.check_release(first[0].release)
        judged = session.judge(volumes, [each.answer for each in first])
        if not judged.passed:
            return session.result("file", judged, (), plan, volumes)
        both = first[0].transport == "shared_memory"
        ways = (True, False) if both else (True,)
        count = repeats * len(paths) * len(ways)
        found: dict[str, _Way] = {}
        complaints = []
        with session.stages.stage("Files: to findings", count) as advance, Peaks(memory) as peaks:
            for _ in range(repeats):
                for number, path in enumerate(paths):
                    for shared in ways:
                        got = _once(session, worker, FileJob(path, shared), found)
                        advance(1)
                        known = Answer.from_bytes(
                            judged.answers[number], len(inputs.release.findings)
                        )
                        answer = Answer.from_bytes(got.answer, len(inputs.release.findings))
                        complaints.append(session.repeat.complaint(answer, known))
    wrong = [text for text in complaints if text]
    parity = _parity(judged, wrong)
    rows = [
        row
        for name, way in found.items()
        for row in _rows(name, way, parity, first=name == first[0].transport)
    ]
    rows += [
        Row("processes", name, figures={"peak_gib": size / 2**30})
        for name, size in peaks.bytes.items()
    ]
    notes = ("Files were read before, and so come from the system's cache.",)
    return session.result("file", judged, rows, plan, volumes, passed=not wrong, notes=notes)


def _once(session: Session, worker: Worker, job: FileJob, found: dict[str, _Way]) -> FromFile:
    server = session.server.process_id
    before = session.statistics()
    cores = 0.0 if server is None else core_seconds(server)
    got: FromFile = worker.ask(job)
    if server is not None:
        cores = core_seconds(server) - cores
    way = found.setdefault(got.transport, _Way())
    way.ms.append(stages_ms(got, session.spent_since(before, WHOLE_PATH, 1)))
    way.client_core_s.append(got.core_s)
    way.sent_bytes.append(got.sent_bytes)
    if server is not None:
        way.server_core_s.append(cores)
    return got


def _parity(judged: Judged, wrong: Sequence[str]) -> Parity:
    if wrong:
        return replace(judged.parity, verdict="FAIL", reason=wrong[0])
    return judged.parity


def _rows(transport: str, way: _Way, parity: Parity, *, first: bool) -> list[Row]:
    """first: the way that the client takes by itself."""
    table = "stages" if first else f"stages by {transport}"
    settings = {"transport": transport}
    whole = statistics.mean(each[WHOLE] for each in way.ms)
    rows = []
    for stage in STAGES:
        ms = [each[stage] for each in way.ms if stage in each]
        if len(ms) < len(way.ms):
            rows.append(Row(table, stage, settings, not_run=_NOT_TOLD))
            continue
        mean = statistics.mean(ms)
        figures = {"mean_ms": mean, "share": mean / whole}
        rows.append(Row(table, stage, settings, Times.of(ms), parity, figures))
    figures = {
        "mean_ms": whole, "share": 1.0, "bytes_sent": statistics.median(way.sent_bytes),
        "client_core_s": statistics.median(way.client_core_s),
    }  # fmt: skip
    if way.server_core_s:
        figures["server_core_s"] = statistics.median(way.server_core_s)
    ms = [each[WHOLE] for each in way.ms]
    return [*rows, Row(table, WHOLE, settings, Times.of(ms), parity, figures)]
