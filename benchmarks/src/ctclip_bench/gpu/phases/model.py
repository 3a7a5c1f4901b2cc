"""The checkpoint and its graphs: made, or read where an export was named."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ctclip_bench.gpu.graphs import GRAPHS, graph
from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import Subject


def measure(subject: Subject, rows: Rows) -> None:
    """How long each takes to make; how the codebook of a made one spreads."""
    if not subject.is_made:
        from ctclip_bench.gpu.made import make_checkpoint

        small = subject.settings.small
        start = time.perf_counter()
        usage = make_checkpoint(subject.checkpoint_file, subject.chest, small=small)
        seconds = time.perf_counter() - start
        figures = asdict(usage)
        margins = figures.pop("margin_percentiles")
        figures |= {f"margin_p{percent}": margin for percent, margin in margins.items()}
        rows.add("checkpoint made, codebook fitted", seconds=seconds, **figures)
    start = time.perf_counter()
    weights = sum(each.numel() for each in subject.reference.parameters())
    rows.add("checkpoint read", seconds=time.perf_counter() - start, parameters=weights)
    for name, made in GRAPHS.items():
        if made.precision in ("fp16", "bf16") and not subject.cuda:
            continue  # the phase "onnx" takes float32 alone there
        rows.attempt(f"graph: {name}", _making(subject, rows, name))


def _making(subject: Subject, rows: Rows, name: str) -> Callable[[], None]:
    def work() -> None:
        start = time.perf_counter()
        path: Path = graph(subject, name)
        rows.add(
            f"graph: {name}",
            seconds=time.perf_counter() - start,
            mib=path.stat().st_size / 2**20,
            of="made here" if path.is_relative_to(subject.folder) else "the repository",
        )

    return work
