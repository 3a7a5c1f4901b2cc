"""Measure the graphs of a release, one after the other, and say what this machine allows."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ctclip_bench.graphs.cases import ENCODERS, GRAPHS, Case, case_of
from ctclip_bench.graphs.ceilings import Ceilings, measure_ceilings, tf32
from ctclip_bench.graphs.contenders import Contender, contenders
from ctclip_bench.graphs.counts import Count, count_graph
from ctclip_bench.graphs.one_graph import Amount, measure_graph
from ctclip_bench.graphs.reasons import without_paths
from ctclip_bench.graphs.roofline import (
    ceiling_rows,
    datasheet_rows,
    limit_here,
    roofline_row,
)
from ctclip_bench.graphs.runners import cores
from ctclip_bench.graphs.subject import Subject, read_subject
from ctclip_bench.graphs.upstream import TABLE as WHOLE_SCAN
from ctclip_bench.graphs.upstream import upstream_rows
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_bench.parity.step_process import reason_of
from ctclip_bench.results.result import Parity, Row
from ctclip_client.contract import CLASSFINE
from ctclip_client.errors import InvalidInput
from ctclip_client.system.progress import Stages
from ctclip_export.engines.gpu import DRIVERS_ORDER


@dataclass(frozen=True)
class Plan:
    """device: "cpu" or "cuda". graphs: of GRAPHS. rounds: at most, and limit_s: no round of a graph
    begins after it. compiled: whether torch.compile is wanted. upstream: of how many findings the
    loop of upstream's script is run, 0 for none. small: ceilings of small matrices, for tests.
    """

    device: str
    graphs: tuple[str, ...]
    rounds: int
    limit_s: float
    compiled: bool = True
    upstream: int = 0
    small: bool = False


@dataclass(frozen=True)
class Measured:
    """rows of all tables; a verdict for each graph; passed: all that serves is right and ran."""

    subject: Subject
    rows: tuple[Row, ...]
    verdicts: tuple[Parity, ...]
    passed: bool
    threads: int
    notes: tuple[str, ...] = (
        "Times are of one run in turn with the others of its table, inputs and outputs in place; "
        "'times_of_first' is the median over rounds of the ratio to the table's first row.",
    )


def measure(inputs: ParityInputs, plan: Plan, stages: Stages) -> Measured:
    """Everything of a plan. Raises: InvalidInput for a graph that the release does not have or a
    device that is not there; Unreadable.
    """
    for word in plan.graphs:
        if GRAPHS[word] == CLASSFINE and CLASSFINE.name not in inputs.members.steps:
            raise InvalidInput(
                "--graphs: this release has no ClassFine head.",
                "Leave classfine out, or export with --classfine.",
            )
    if plan.device == "cuda":  # CUDA has not started: it is to take the GPU that nvidia-smi names
        os.environ.update(DRIVERS_ORDER)
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(
            "--device cuda: this torch sees no GPU.",
            "Install its CUDA build (make environment GPU=1), or measure with --device cpu.",
        )
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        with tf32(False):
            return _measure(inputs, plan, stages)
    finally:
        torch.set_num_threads(before)


def _measure(inputs: ParityInputs, plan: Plan, stages: Stages) -> Measured:
    subject = read_subject(inputs, stages)
    with stages.stage("Ceilings of this machine"):
        ceilings = measure_ceilings(plan.device, small=plan.small)
    amount = Amount(plan.device, plan.rounds, plan.limit_s)
    rows: list[Row] = []
    rooflines: list[Row] = []
    verdicts: list[Parity] = []
    for word in plan.graphs:
        case = case_of(subject, word)
        counts = {path.name: count_graph(path, case.shapes, case.decisive) for path in case.files}
        limits = partial(_limit_ms, case, counts, ceilings)
        every = contenders(case, subject, plan.device, compiled=plan.compiled)
        some, verdict = measure_graph(case, every, amount, limits, stages)
        rows += some
        verdicts.append(verdict)
        rooflines += _rooflines(case, counts[case.files[0].name], ceilings)
        gc.collect()
    if plan.upstream:
        some, verdict = _whole_scan(subject, plan, stages)
        rows += some
        verdicts.append(verdict)
    passed = all(verdict.verdict == "PASS" for verdict in verdicts)
    every_row = (*rows, *rooflines, *ceiling_rows(ceilings))
    return Measured(subject, every_row, tuple(verdicts), passed, cores())


def _whole_scan(subject: Subject, plan: Plan, stages: Stages) -> tuple[list[Row], Parity]:
    """Where it cannot be run, a row says why: the graphs that were measured before are kept."""
    try:
        return upstream_rows(subject, plan.upstream, plan.device, stages)
    except Exception as error:  # noqa: BLE001 (each runtime has its own errors)
        inputs = subject.inputs
        known: list[Path | None] = [inputs.repository, inputs.checkpoint, inputs.text_model]
        reason = without_paths(reason_of(error), known)
        row = Row(WHOLE_SCAN, "--upstream", not_run=reason)
        return [row], Parity("FAIL", f"{WHOLE_SCAN} against {subject.against}", reason=reason)


def _rooflines(case: Case, count: Count, ceilings: Ceilings) -> list[Row]:
    limit = limit_here(count, ceilings)
    here = f"this {ceilings.device}, by its measured ceilings"
    row = roofline_row(case.word, case.precision, count, here, limit)
    bounds = datasheet_rows(case.word, case.precision, count, encoder=case.word in ENCODERS)
    return [row, *bounds]


def _limit_ms(case: Case, counts: Mapping[str, Count], ceilings: Ceilings, one: Contender) -> float:
    """The least time at the row's precision: a twin in bf16 computes in bf16 what the file does in
    float32. Peers without a file are held to the first one's count.
    """
    count = counts.get(one.file, counts[case.files[0].name])
    if one.precision != case.precision:
        count = count.typed(one.precision)
    return limit_here(count, ceilings).limit_ms
