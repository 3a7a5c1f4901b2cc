"""`ctclip bench file`: where the time goes between a CT file and its findings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from ctclip_bench.load.asking import INFER, PACK, READ, TO_VOLUME, Asked, FileJob
from ctclip_bench.load.memory import Peaks, core_seconds, process_memory
from ctclip_bench.load.session import WHOLE_PATH, Session, under_load
from ctclip_bench.load.statistics import COMPUTE, Spent, count, mean_ms
from ctclip_bench.load.worker import Worker, start_worker
from ctclip_bench.results.result import Parity, Result, Row, Times
from ctclip_client.contract import FINDINGS, PATHOLOGIES, PREPROCESS, VISION

TRANSPORT, QUEUE, REST, WHOLE = "transport", "queue", "rest", "whole"
_MODELS = {"preprocess": PREPROCESS.name, "vision": VISION.name, "score": FINDINGS.name}
STAGES = (READ, TO_VOLUME, PACK, TRANSPORT, QUEUE, *_MODELS, REST)
"""In their order. queue: of all models. preprocess, vision, score: of their models, with the copies
in and out. transport: what is left between the packed request and the answer: gRPC both ways,
ctclip_check, Triton's own steps between models. (Not by the ensemble's own time, which Triton ends
when it has put a request away, later than its answer.) rest: what is left of the whole, mostly
letting go of shared memory."""
_NOT_TOLD = "Triton does not tell its statistics, or other requests ran meanwhile"


def stages_ms(
    whole: float, own: Mapping[str, float], spent: Mapping[str, Spent]
) -> dict[str, float]:
    """Milliseconds of each stage, and of WHOLE, which they add up to.

    own: of the client, as `FileJob.run` returns them. spent: what Triton has done for this request;
    empty where nobody knows, and then everything of the server is in `rest`.
    """
    ms = {name: own[name] for name in (READ, TO_VOLUME, PACK)}
    if all(name in spent and spent[name]["requests"] == 1 for name in WHOLE_PATH):
        inside = {QUEUE: sum(mean_ms(spent[s.model.name], "queue") for s in PATHOLOGIES.steps)}
        inside |= {stage: mean_ms(spent[model], *COMPUTE) for stage, model in _MODELS.items()}
        ms |= {TRANSPORT: own[INFER] - sum(inside.values()), **inside}
    return {**ms, REST: whole - sum(ms.values()), WHOLE: whole}


def measure(session: Session, repeats: int) -> Result:
    """Judge, and then send every file `repeats` times by each way that the client can take.

    Raises: CTClipError.
    """
    paths = [scan.path for scan in session.inputs.scans]
    plan = {"repeats": repeats, "scans": len(paths)}
    with start_worker(session.connection) as worker:

        def memory() -> dict[str, int]:
            sizes = {"client": sum(process_memory(worker.process_id).values())}
            if session.process_id is not None:
                sizes |= process_memory(session.process_id)
            return sizes

        with session.stages.stage("Parity: every scan once", len(paths)) as advance:
            first = [
                worker.ask(FileJob(path, number, True), advance)[0].scores
                for number, path in enumerate(paths)
            ]
        verdict = session.judge(first)
        if verdict.verdict != "PASS":
            return session.result("file", [verdict], (), plan)
        own = first[0].transport.kind
        jobs = [
            FileJob(path, number, shared)
            for number, path in enumerate(paths)
            for shared in ((True, False) if own == "shared_memory" else (True,))
        ]
        found: dict[str, list[dict[str, float]]] = {}
        asked = []
        with (
            session.stages.stage("Files: to findings", repeats * len(jobs)) as advance,
            Peaks(memory) as peaks,
        ):
            for job in jobs * repeats:
                got, figures = _once(session, worker, job)
                advance(1)
                asked.append(got)
                found.setdefault(got.scores.transport.kind, []).append(figures)
    parity = under_load(verdict, session.complaints(asked, first))
    rows = []
    for transport, each in found.items():
        table = "stages" if transport == own else f"stages by {transport}"
        rows += _rows(table, transport, each, parity)
    rows += [Row("processes", name, figures={"peak_gib": g}) for name, g in peaks.gib.items()]
    notes = ("Files were read before, and so come from the system's cache.",)
    return session.result("file", [verdict], rows, plan, notes)


def _once(session: Session, worker: Worker, job: FileJob) -> tuple[Asked, dict[str, float]]:
    """Stages in milliseconds, core-seconds and bytes by their names."""
    spent_since = count(session.connection)
    server = session.process_id
    cores = 0.0 if server is None else core_seconds(server)
    got, own, client_cores = worker.ask(job)
    figures = {"client_core_s": client_cores, "bytes_sent": got.scores.transport.bytes}
    if server is not None:
        figures["server_core_s"] = core_seconds(server) - cores
    spent = spent_since(WHOLE_PATH, 1)
    return got, figures | stages_ms(got.ms, own, spent)


def _rows(
    table: str, transport: str, found: Sequence[Mapping[str, float]], parity: Parity
) -> list[Row]:
    settings = {"transport": transport}
    whole = statistics.mean(each[WHOLE] for each in found)
    rows = []
    for stage in (*STAGES, WHOLE):
        ms = [each[stage] for each in found if stage in each]
        if len(ms) < len(found):
            rows.append(Row(table, stage, settings, not_run=_NOT_TOLD))
            continue
        mean = statistics.mean(ms)
        figures = {"mean_ms": mean, "share": mean / whole}
        if stage == WHOLE:
            for name in ("bytes_sent", "client_core_s", "server_core_s"):
                if name in found[0]:
                    # A number that was sent, where there are two in the middle, and none between.
                    figures[name] = statistics.median_low(each[name] for each in found)
        rows.append(Row(table, stage, settings, Times.of(ms), parity, figures))
    return rows
