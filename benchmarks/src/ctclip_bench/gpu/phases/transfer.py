"""Copies between host and device, and where VOXELS lives between two graphs."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from numpy.typing import NDArray

from ctclip_bench.gpu.graphs import graph
from ctclip_bench.gpu.rows import Missing, Rows
from ctclip_bench.gpu.subject import Subject, parity_if

_SCAN_BYTES = 320 * 512 * 512 * 2


def measure(subject: Subject, rows: Rows) -> None:
    """A scan and VOXELS, pinned and pageable; then both graphs, one behind the other."""
    sizes = {"a scan": _SCAN_BYTES, "VOXELS": 4 * math.prod(subject.geometry.volume_shape)}
    for name, count in sizes.items():
        for kind in ("pinned", "pageable"):
            with rows.attempt(row := f"{name}, {kind}"):
                _copies(subject, rows, row, count, pinned=kind == "pinned")
    with rows.attempt("preprocess and vision"):
        _chain(subject, rows)


def _copies(subject: Subject, rows: Rows, row: str, count: int, *, pinned: bool) -> None:
    if not subject.cuda:
        raise Missing("on a CPU nothing is copied to a device")
    here = torch.ones(count, dtype=torch.uint8, pin_memory=pinned)
    there = torch.empty(count, dtype=torch.uint8, device=subject.device)
    times = subject.times(
        {"host to device": lambda: there.copy_(here), "device to host": lambda: here.copy_(there)}
    )
    for way, milliseconds in times.items():
        rate = count / statistics.median(milliseconds) / 1e6
        settings = {"bytes": count, "pinned": pinned}
        rows.add(f"{row}, {way}", milliseconds, settings=settings, gb_per_s=rate)


def _chain(subject: Subject, rows: Rows) -> None:
    """Preprocessing, then vision: VOXELS left on the device, or copied out and in again.

    The difference is what a server pays that has no room for VOXELS in its pool on the GPU.
    """
    from ctclip_bench.gpu.sessions import Session  # onnxruntime may not be there

    scan = subject.scan.tensors()
    first = Session(graph(subject, "preprocess for GPUs"), subject.device)
    second = Session(graph(subject, "vision fp32"), subject.device)
    _, _ = first.profiled(scan), second.profiled({"VOXELS": subject.volume(0).cpu().numpy()})
    made, answered = first.bind(scan, ["VOXELS"]), second.bind({})
    place = ""

    def in_place() -> list[NDArray[Any]]:
        nonlocal place
        first.run_bound(made)
        (voxels,) = made.get_outputs()
        place = voxels.device_name()
        answered.bind_ortvalue_input("VOXELS", voxels)
        second.run_bound(answered)
        found: list[NDArray[Any]] = answered.copy_outputs_to_cpu()
        return found

    def by_way_of_the_host() -> list[NDArray[Any]]:
        (voxels,) = first.run(scan)
        return second.run({"VOXELS": voxels})

    codes = second.outputs.index("CODES")
    agree = float((in_place()[codes] == by_way_of_the_host()[codes]).mean())
    parity = parity_if(agree >= 0.999, "by way of the host", codes_agree=agree)
    works = {"in place": in_place, "by way of the host": by_way_of_the_host}
    for name, milliseconds in subject.times(works, clock=True).items():
        # Both end with the answer on the host; the scan itself is there already in the first.
        more: dict[str, Any] = {"voxels_on": place} if name == "in place" else {}
        rows.add(f"preprocess and vision, VOXELS {name}", milliseconds, parity=parity, **more)
