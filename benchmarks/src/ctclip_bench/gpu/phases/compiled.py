"""torch.compile of the vision encoder, as far as there is time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ctclip_bench.gpu.answers import Encode, answers, encoder
from ctclip_bench.gpu.rows import Missing, Rows
from ctclip_bench.gpu.subject import Subject
from ctclip_bench.graphs.timing import Work, in_turn, measure_on
from ctclip_bench.graphs.torch_runner import missing_compiler

_CASES = (("bf16", "default"), ("fp32", "default"), ("fp16", "max-autotune-no-cudagraphs"))
_LIMIT_S = 5.0


def measure(subject: Subject, rows: Rows) -> None:
    """One volume, compiled and eager in turn. Raises: Missing, also on a CPU."""
    if not subject.cuda:
        raise Missing("on a CPU, `ctclip bench graphs` compares it")
    if missing := missing_compiler(subject.device):
        raise Missing(missing)
    with torch.no_grad():
        for precision, mode in _CASES:
            name = f"vision {precision}, torch.compile {mode}"
            rows.attempt(name, _case(subject, rows, name, precision, mode))


def _case(subject: Subject, rows: Rows, name: str, precision: str, mode: str) -> Callable[[], None]:
    def work() -> None:
        encode, voxels = encoder(subject.vision(precision)), subject.volume(0)
        start = time.perf_counter()
        compiled: Encode = torch.compile(encode, mode=None if mode == "default" else mode)
        found = compiled(voxels)
        if subject.cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        parity = subject.verdict(precision, answers(subject, found), [0])
        del found
        works: dict[str, Work] = {
            "compiled": lambda: compiled(voxels),
            "eager": lambda: encode(voxels),
        }
        times = in_turn(
            works, measure_on(subject.device), rounds=subject.settings.runs, warmup=2,
            limit_s=_LIMIT_S,
        )  # fmt: skip
        rows.add(
            name, times["compiled"], parity=parity, compile_s=seconds,
            eager_ms=statistics.median(times["eager"]),
            settings={"precision": precision, "mode": mode, "batch": 1},
        )  # fmt: skip

    return work
