"""torch.compile of the vision encoder, as far as there is time."""

from __future__ import annotations

import statistics
import time

import torch

from ctclip_bench.gpu.rows import Missing, Rows
from ctclip_bench.gpu.subject import Encode, Subject, encoder
from ctclip_bench.graphs.torch_runner import missing_compiler
from ctclip_export.graphs.quiet import quiet

_CASES = (("bf16", "default"), ("fp32", "default"), ("bf16", "reduce-overhead"))
"""The last is by CUDA graphs. None tries kernels out, which takes minutes; fp16 is like bf16."""


def measure(subject: Subject, rows: Rows) -> None:
    """One volume, compiled and eager in turn. Raises: Missing, also on a CPU."""
    if not subject.cuda:
        raise Missing("on a CPU, `ctclip bench graphs` compares it")
    if missing := missing_compiler(subject.device):
        raise Missing(missing)
    with torch.no_grad():
        for precision, mode in _CASES:
            name = f"vision {precision}, torch.compile {mode}"
            with rows.attempt(name), quiet():
                _compiled(subject, rows, name, precision, mode)
            torch.compiler.reset()  # with the memory of its CUDA graphs


def _compiled(subject: Subject, rows: Rows, name: str, precision: str, mode: str) -> None:
    encode, voxels = encoder(subject.vision(precision)), subject.volume(0)
    start = time.perf_counter()
    compiled: Encode = torch.compile(encode, mode=None if mode == "default" else mode)
    found = compiled(voxels)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    parity = subject.verdict(precision, subject.answers(found), [0])
    del found
    times = subject.times(
        {"compiled": lambda: compiled(voxels), "eager": lambda: encode(voxels)},
    )
    rows.add(
        name, times["compiled"], parity=parity, compile_s=seconds,
        eager_ms=statistics.median(times["eager"]),
        settings={"precision": precision, "mode": mode, "batch": 1},
    )  # fmt: skip
