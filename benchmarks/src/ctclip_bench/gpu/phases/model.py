"""The checkpoint and its graphs: made, or read where an export was named."""

from __future__ import annotations

import time
from dataclasses import asdict

from ctclip_bench.gpu.graphs import GRAPHS, graph
from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import Subject


def measure(subject: Subject, rows: Rows) -> None:
    """How long each takes to make; how the codebook of a made one spreads."""
    _ = subject.chest  # drawn, or read, before the clock runs
    start = time.perf_counter()
    if usage := subject.made:
        figures = asdict(usage)
        margins = figures.pop("margin_percentiles")
        figures |= {f"margin_p{percent}": margin for percent, margin in margins.items()}
        seconds = time.perf_counter() - start
        rows.add("checkpoint made, codebook fitted", seconds=seconds, **figures)
    start = time.perf_counter()
    weights = sum(each.numel() for each in subject.reference.parameters())
    rows.add("checkpoint read", seconds=time.perf_counter() - start, parameters=weights)
    for name, (_, precision) in GRAPHS.items():
        if precision in ("fp16", "bf16") and not subject.cuda:
            continue  # the phase "onnx" takes float32 alone there
        with rows.attempt(f"graph: {name}"):
            start = time.perf_counter()
            path = graph(subject, name)
            rows.add(
                f"graph: {name}",
                seconds=time.perf_counter() - start,
                mib=path.stat().st_size / 2**20,
                of="made here" if path.is_relative_to(subject.folder) else "the repository",
            )
