"""One graph on this machine: load all that run it, judge them, time the right ones in turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctclip_bench.graphs.cases import Case
from ctclip_bench.graphs.contenders import Contender
from ctclip_bench.graphs.judging import Found, Verdict
from ctclip_bench.graphs.reasons import without_paths
from ctclip_bench.graphs.runners import Outputs, Runner, nodes_by_provider
from ctclip_bench.graphs.timing import in_turn, measure_on
from ctclip_bench.graphs.torch_runner import TorchRunner, compiler_files_in
from ctclip_bench.parity.step_process import reason_of
from ctclip_bench.results.result import Parity, Row, Times
from ctclip_client.system.progress import Stages

LimitMs = Callable[[Contender], float]


@dataclass(frozen=True)
class Amount:
    """device: "cpu" or "cuda". rounds: at most; none begins after limit_s."""

    device: str
    rounds: int
    limit_s: float


@dataclass
class _Entrant:
    """A contender on its way: why it did not run, its verdict, what is known of it, its times."""

    one: Contender
    not_run: str = ""
    runner: Runner | None = None
    verdict: Verdict | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    times: Sequence[float] = ()

    @property
    def wrong(self) -> str:
        """Why it answers wrongly, "" if it does not, or did not run."""
        passed = self.verdict is None or self.verdict.passed
        return "" if passed or self.verdict is None else self.verdict.parity.reason

    def row(self, case: Case) -> Row:
        settings = self.one.settings(case.batch)
        if self.verdict is None:
            return Row(case.word, self.one.name, settings, not_run=self.not_run)
        figures = {**self.verdict.figures, **self.figures}
        taken = Times.of(self.times) if self.times else None
        return Row(case.word, self.one.name, settings, taken, self.verdict.parity, figures)


def measure_graph(
    case: Case, every: Sequence[Contender], amount: Amount, limit_ms: LimitMs, stages: Stages
) -> tuple[list[Row], Parity]:
    """A row for each contender, in their order, and the verdict on those that serve.

    What answers wrongly is not timed. limit_ms: the least time that a contender can take here.
    """
    entrants = [_Entrant(one, without_paths(one.missing, case.files)) for one in every]
    with (
        tempfile.TemporaryDirectory(prefix="ctclip-compile-", ignore_cleanup_errors=True) as folder,
        compiler_files_in(Path(folder)),
    ):
        for entrant in entrants:
            if not entrant.not_run:
                with stages.stage(f"{case.word}: load and judge {entrant.one.name}"):
                    _enter(case, entrant, amount.device)
        right = [entrant for entrant in entrants if entrant.runner and not entrant.wrong]
        works = {each.one.name: each.runner.run for each in right if each.runner}
        with stages.stage(f"{case.word}: time", amount.rounds * len(works)) as advance:
            # All have run before, when they were judged.
            times = in_turn(
                works, measure_on(amount.device), rounds=amount.rounds, warmup=0,
                limit_s=amount.limit_s, advance=advance,
            )  # fmt: skip
    for entrant in right:
        entrant.times = times[entrant.one.name]
        entrant.figures |= {
            "times_of_first": _ratio(entrant.times, times[right[0].one.name]),
            "share_of_limit": limit_ms(entrant.one) / statistics.median(entrant.times),
        }
    return [entrant.row(case) for entrant in entrants], _verdict(case, entrants)


def _enter(case: Case, entrant: _Entrant, device: str) -> None:
    """Load it, run all volumes, judge, and leave the first one's inputs in place."""
    one = entrant.one
    try:
        runner = one.make()
        outputs: list[Outputs] = []
        for feed in case.feeds:
            runner.bind(feed)
            runner.run()
            outputs.append(runner.outputs())
        tokens = one.tokens and partial(one.tokens, [feed["VOXELS"] for feed in case.feeds])
        entrant.verdict = case.judge(Found(one.name, one.precision, outputs, tokens))
        if len(case.feeds) > 1:
            runner.bind(case.feeds[0])
        entrant.figures = _figures(case, one, runner, device)
        entrant.runner = runner
    except Exception as error:  # noqa: BLE001 (each runtime has its own errors)
        reason = without_paths(reason_of(error), case.files)
        entrant.verdict, entrant.not_run = None, reason


def _figures(case: Case, one: Contender, runner: Runner, device: str) -> dict[str, Any]:
    """What is known of a runtime beside its times."""
    found: dict[str, Any] = {}
    if isinstance(runner, TorchRunner):
        if runner.compile_s is not None:
            found["compile_s"] = runner.compile_s
        if device == "cuda" and one.mode != "CUDA graph":  # its memory is taken when captured
            held = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            runner.run()
            torch.cuda.synchronize()
            found["working_gib"] = (torch.cuda.max_memory_allocated() - held) / 2**30
    if one.runtime == "ONNX Runtime" and device == "cuda":
        path = next(path for path in case.files if path.name == one.file)
        nodes = nodes_by_provider(path, case.feeds[0], device)
        found["nodes_on_cpu"] = nodes["CPUExecutionProvider"]
        found["nodes"] = sum(nodes.values())
    return found


def _ratio(times: Sequence[float], first: Sequence[float]) -> float:
    """How many times as long: the median over rounds of the ratio of a pair."""
    return statistics.median(own / other for own, other in zip(times, first, strict=True))


def _verdict(case: Case, entrants: Sequence[_Entrant]) -> Parity:
    """FAIL where one that serves answers wrongly or does not run; what peers do is said."""
    judged = [each for each in entrants if each.verdict is not None]
    against = judged[0].verdict.parity.against if judged and judged[0].verdict else "nothing"
    said, failed = [], not judged
    for each in entrants:
        broken = "" if each.one.missing else each.not_run
        if trouble := each.wrong or (broken if each.one.served else ""):
            failed |= each.one.served
            said.append(f"{each.one.name}: {trouble}")
    agreeing = sum(not each.wrong for each in judged)
    said.insert(0, f"{agreeing} of {len(judged)} that ran agree")
    verdict = "FAIL" if failed else "PASS"
    return Parity(verdict, f"{case.word} against {against}", reason="; not timed: ".join(said))
