"""Measure the graphs of a release, one after the other: load all that run one, judge them, time the
right ones in turns, and say what this machine allows.
"""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ctclip_bench.graphs.cases import ENCODERS, Case, case_of
from ctclip_bench.graphs.ceilings import Ceilings, measure_ceilings, tf32
from ctclip_bench.graphs.contenders import Contender, contenders
from ctclip_bench.graphs.counts import Count, count_graph
from ctclip_bench.graphs.reasons import without_paths
from ctclip_bench.graphs.roofline import (
    ceiling_rows,
    datasheet_rows,
    limit_of,
    roofline_row,
)
from ctclip_bench.graphs.runners import Outputs, Runner, cores
from ctclip_bench.graphs.subject import Subject, read_subject
from ctclip_bench.graphs.timing import in_turn, measure_on
from ctclip_bench.graphs.torch_runner import TorchRunner, compiled_afresh
from ctclip_bench.graphs.upstream import WHOLE_SCAN, upstream_rows
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_bench.parity.step_process import reason_of
from ctclip_bench.results.files import without_name
from ctclip_bench.results.result import Parity, Result, Row, Times
from ctclip_client.contract import CLASSFINE
from ctclip_client.errors import InvalidInput
from ctclip_client.system.progress import Stages
from ctclip_export.engines.gpu import DRIVERS_ORDER

_NOTE = (
    "Times are of one run in turn with the others of its table, inputs and outputs in place; "
    "'times of first' is the median over rounds of the ratio to the table's first row."
)


@dataclass(frozen=True)
class Plan:
    """device: "cpu" or "cuda". graphs: "vision", …. rounds: at most, and limit_s: no round of a
    graph begins after it. compile: whether torch.compile is wanted. upstream_findings: of how many
    findings the loop of upstream's script is run, 0 for none.
    """

    device: str
    graphs: tuple[str, ...]
    rounds: int
    limit_s: float
    compile: bool = True
    upstream_findings: int = 0


def measure(
    inputs: ParityInputs, plan: Plan, stages: Stages, *, scans: str = "", small: bool = False
) -> Result:
    """Everything of a plan. It passes where all that serves answers right, and runs.

    scans: what they are, for the result. small: ceilings of small matrices, for tests.
    Raises: InvalidInput for a graph that the release does not have or a device that is not there;
    Unreadable.
    """
    if "classfine" in plan.graphs and CLASSFINE.name not in inputs.members.steps:
        raise InvalidInput(
            "--graphs: this release has no trained head.",
            "Leave classfine out, or export with --classfine or --head.",
        )
    if plan.device == "cuda":  # CUDA has not started: it is to take the GPU that nvidia-smi names
        os.environ.update(DRIVERS_ORDER)
        if not torch.cuda.is_available():
            raise InvalidInput(
                "--device cuda: this torch sees no GPU.",
                "Install its CUDA build (make environment GPU=1), or measure with --device cpu.",
            )
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        with tf32(False):
            subject = read_subject(inputs, stages)
            rows, verdicts = _measure(subject, plan, stages, small=small)
    finally:
        torch.set_num_threads(before)
    release = inputs.release
    about = {
        **without_name(release.content), "random_weights": release.checkpoint.random_weights,
    }  # fmt: skip
    chosen = {
        **asdict(plan), "threads": cores(), "against": subject.against,
        "scans": scans or f"{len(inputs.scans)} files",
        "shapes_zxy": [list(volume.voxels.shape) for volume in subject.volumes],
    }  # fmt: skip
    passed = all(verdict.verdict == "PASS" for verdict in verdicts)
    return Result("graphs", passed, about, chosen, tuple(rows), tuple(verdicts), (_NOTE,))


def _measure(
    subject: Subject, plan: Plan, stages: Stages, *, small: bool
) -> tuple[list[Row], list[Parity]]:
    """Rows of all tables, and a verdict for each graph."""
    with stages.stage("Ceilings of this machine"):
        ceilings = measure_ceilings(plan.device, small=small)
    rows: list[Row] = []
    rooflines: list[Row] = []
    verdicts: list[Parity] = []
    here = f"this {ceilings.device}, by its measured ceilings"
    for word in plan.graphs:
        case = case_of(subject, word)
        inputs = case.feeds[0]
        shapes = {name: array.shape for name, array in inputs.items()}
        deciding = {name: array for name, array in inputs.items() if name == "SPACING"}
        counts = {path.name: count_graph(path, shapes, deciding) for path in case.files}
        count = counts[case.files[0].name]
        limit = limit_of(count, ceilings.products, ceilings.copy)
        some, verdict = _measure_graph(case, plan, counts, ceilings, stages)
        rows += some
        verdicts.append(verdict)
        rooflines += [
            roofline_row(word, case.precision, count, here, limit),
            *datasheet_rows(word, case.precision, count, encoder=word in ENCODERS),
        ]
        gc.collect()
    if plan.upstream_findings:
        try:
            some, verdict = upstream_rows(subject, plan.upstream_findings, plan.device, stages)
        except Exception as error:  # noqa: BLE001 (the graphs that were measured before are kept)
            of = subject.inputs
            known = [of.repository, of.checkpoint, of.text_model]
            reason = without_paths(reason_of(error), known)
            some = [Row(WHOLE_SCAN, "--upstream", not_run=reason)]
            verdict = Parity("FAIL", subject.against, reason=f"{WHOLE_SCAN}: {reason}")
        rows += some
        verdicts.append(verdict)
    return [*rows, *rooflines, *ceiling_rows(ceilings)], verdicts


def _measure_graph(
    case: Case, plan: Plan, counts: Mapping[str, Count], ceilings: Ceilings, stages: Stages
) -> tuple[list[Row], Parity]:
    """A row for each contender, in their order, and the verdict on those that serve.

    What answers wrongly is not timed. counts: of each file.
    """
    every = {one.name: one for one in contenders(case, plan.device, compiled=plan.compile)}
    rows: dict[str, Row] = {}
    right: dict[str, Runner] = {}
    with compiled_afresh():
        for name, one in every.items():
            row = Row(case.word, name, one.settings(case.batch))
            try:
                if one.missing:
                    raise InvalidInput(one.missing)
                with stages.stage(f"{case.word}: load and judge {name}"):
                    runner, parity, figures = _judged(case, one)
                row = replace(row, parity=parity, figures=figures)
                if parity.verdict == "PASS":
                    right[name] = runner
            except Exception as error:  # noqa: BLE001 (each runtime has its own errors)
                row = replace(row, not_run=without_paths(reason_of(error), case.files))
            rows[name] = row
        works = {name: runner.run for name, runner in right.items()}
        with stages.stage(f"{case.word}: time", plan.rounds * len(works)) as advance:
            # All have run before, when they were judged.
            times = in_turn(
                works, measure_on(plan.device), rounds=plan.rounds, warmup=0,
                limit_s=plan.limit_s, advance=advance,
            )  # fmt: skip
    first = next(iter(times.values()), [])
    for name, taken in times.items():
        # A twin in bf16 computes in bf16 what the file does in float32; what has no file is held to
        # the first one's count.
        count = counts.get(every[name].file, counts[case.files[0].name])
        if every[name].precision != case.precision:
            count = count.typed(every[name].precision)
        limit_ms = limit_of(count, ceilings.products, ceilings.copy)["limit_ms"]
        figures = {
            **rows[name].figures,
            # The median over rounds of the ratio of a pair.
            "times_of_first": statistics.median(a / b for a, b in zip(taken, first, strict=True)),
            "share_of_limit": limit_ms / statistics.median(taken),
        }
        rows[name] = replace(rows[name], times_ms=Times.of(taken), figures=figures)
    return list(rows.values()), _verdict(case, every, rows)


def _judged(case: Case, one: Contender) -> tuple[Runner, Parity, dict[str, Any]]:
    """Load it, run all volumes, judge, and leave the first one's inputs in place."""
    runner = one.make()
    outputs: list[Outputs] = []
    for feed in case.feeds:
        runner.bind(feed)
        runner.run()
        outputs.append(runner.outputs())
    parity, figures = case.judge(one.name, one.precision, outputs, one.tokens)
    if len(case.feeds) > 1:
        runner.bind(case.feeds[0])
    if isinstance(runner, TorchRunner) and runner.compile_s is not None:
        figures["compile_s"] = runner.compile_s
    return runner, parity, figures


def _verdict(case: Case, every: Mapping[str, Contender], rows: Mapping[str, Row]) -> Parity:
    """FAIL where one that serves answers wrongly or does not run; what peers do is said."""
    judged = [row.parity for row in rows.values() if row.parity is not None]
    agreeing = sum(parity.verdict == "PASS" for parity in judged)
    said = [f"{case.word}: {agreeing} of {len(judged)} that ran agree"]
    failed = not judged
    for name, row in rows.items():
        one = every[name]
        broken = row.not_run if one.served and not one.missing else ""
        if trouble := row.parity.reason if row.parity else broken:
            failed |= one.served
            said.append(f"{name}: {trouble}")
    against = judged[0].against if judged else "nothing"
    return Parity("FAIL" if failed else "PASS", against, reason="; not timed: ".join(said))
