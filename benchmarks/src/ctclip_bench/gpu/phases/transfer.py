"""Copies between host and device, and where VOXELS lives between two graphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctclip_bench.gpu.graphs import graph
from ctclip_bench.gpu.phases.onnx_rows import scan_of
from ctclip_bench.gpu.rows import Missing, Rows
from ctclip_bench.gpu.sessions import Session, load_onnxruntime
from ctclip_bench.gpu.subject import Subject
from ctclip_bench.graphs.timing import Work, by_clock, in_turn, measure_on
from ctclip_bench.results.result import Parity

_ROUNDS, _LIMIT_S = 10, 4.0
_SCAN_BYTES = 320 * 512 * 512 * 2


def measure(subject: Subject, rows: Rows) -> None:
    """A scan and VOXELS, pinned and pageable; then both graphs, one behind the other."""
    sizes = {
        "a scan": _SCAN_BYTES,
        "VOXELS": 4 * math.prod(subject.geometry.volume_shape),
    }
    for name, count in sizes.items():
        for kind in ("pinned", "pageable"):
            row = f"{name}, {kind}"
            rows.attempt(row, _copies(subject, rows, row, count, pinned=kind == "pinned"))
    rows.attempt("preprocess and vision", lambda: _chain(subject, rows))


def _copies(
    subject: Subject, rows: Rows, row: str, count: int, *, pinned: bool
) -> Callable[[], None]:
    def work() -> None:
        if not subject.cuda:
            raise Missing("on a CPU nothing is copied to a device")
        here = torch.ones(count, dtype=torch.uint8, pin_memory=pinned)
        there = torch.empty(count, dtype=torch.uint8, device=subject.device)
        works: dict[str, Work] = {
            "host to device": lambda: there.copy_(here),
            "device to host": lambda: here.copy_(there),
        }
        rounds = min(subject.settings.runs, _ROUNDS)
        times = in_turn(
            works, measure_on(subject.device), rounds=rounds, warmup=2, limit_s=_LIMIT_S
        )
        for way, milliseconds in times.items():
            rate = count / float(np.median(milliseconds)) / 1e6
            settings = {"bytes": count, "pinned": pinned}
            rows.add(f"{row}, {way}", milliseconds, settings=settings, gb_per_s=rate)

    return work


def _chain(subject: Subject, rows: Rows) -> None:
    """Preprocessing, then vision: VOXELS left on the device, or copied out and in again.

    The difference is what a server pays that has no room for VOXELS in its pool on the GPU.
    """
    load_onnxruntime(subject.device)
    scan = scan_of(subject).tensors()
    first = Session(graph(subject, "preprocess for GPUs"), subject.device)
    second = Session(graph(subject, "vision fp32"), subject.device)
    _, _ = first.profiled(scan), second.profiled({"VOXELS": subject.volume(0).cpu().numpy()})
    made = first.bound(scan, ["VOXELS"])
    io = second.session.io_binding()
    for name in second.outputs:
        io.bind_output(name, subject.device, 0)
    place = ""

    def in_place() -> list[NDArray[Any]]:
        nonlocal place
        made()
        (voxels,) = made.io.get_outputs()
        place = voxels.device_name()
        io.bind_ortvalue_input("VOXELS", voxels)
        second.session.run_with_iobinding(io)
        found: list[NDArray[Any]] = io.copy_outputs_to_cpu()
        return found

    def by_way_of_the_host() -> list[NDArray[Any]]:
        (voxels,) = first.run(scan)
        return second.run({"VOXELS": voxels})

    kept, copied = in_place(), by_way_of_the_host()
    codes = second.outputs.index("CODES")
    agree = float((kept[codes] == copied[codes]).mean())
    parity = Parity("PASS" if agree >= 0.999 else "FAIL", "by way of the host", agree)
    works: dict[str, Work] = {"in place": in_place, "by way of the host": by_way_of_the_host}
    rounds = min(subject.settings.runs, _ROUNDS)
    times = in_turn(works, by_clock, rounds=rounds, warmup=1, limit_s=2 * _LIMIT_S)
    for name, milliseconds in times.items():
        # Both end with the answer on the host; the scan itself is there already in the first.
        more: dict[str, Any] = {"voxels_on": place} if name == "in place" else {}
        rows.add(f"preprocess and vision, VOXELS {name}", milliseconds, parity=parity, **more)
