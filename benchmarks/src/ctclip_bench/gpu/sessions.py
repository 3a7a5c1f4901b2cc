"""ONNX Runtime on the device under measurement: sessions, bound tensors, where nodes ran."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_bench.gpu.rows import Missing
from ctclip_export.parity.providers import CPU as ON_CPU
from ctclip_export.parity.providers import open_session

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_NO_KERNEL = "Could not find an implementation for"
Arrays = Mapping[str, NDArray[Any]]


def require_provider(device: str) -> None:
    """Raises: Missing where this ONNX Runtime cannot compute on the device."""
    if device == "cuda" and CUDA not in onnxruntime.get_available_providers():
        raise Missing(f"onnxruntime {onnxruntime.__version__} has no CUDA provider")


class Session:
    """A graph on the device; its first run is profiled, all others are not."""

    def __init__(self, path: Path, device: str, *, tf32: bool = False) -> None:
        """Raises: Missing, also for a type that no provider has kernels for; NoProvider if the CUDA
        provider does not start.
        """
        require_provider(device)
        options = {"use_tf32": str(int(tf32)), "cudnn_conv_algo_search": "HEURISTIC"}
        providers = ((CUDA, options), *ON_CPU) if device == "cuda" else ON_CPU
        # In the worker's folder, which is removed at its end.
        profile = Path(tempfile.mkdtemp(prefix="ctclip-gpu-")) / "profile"
        try:
            self.session = open_session(path, providers, profile=profile)
        except Exception as error:  # ONNX Runtime's errors have no common class
            if _NO_KERNEL not in str(error):
                raise
            raise Missing(f"ONNX Runtime: {str(error).splitlines()[0]}") from error
        self.device = device
        self.outputs = [output.name for output in self.session.get_outputs()]
        self._bound: list[Tensor] = []

    def profiled(self, feed: Arrays) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The first run: all outputs by name, and of `placement`."""
        got = self.session.run(None, dict(feed))
        events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        return dict(zip(self.outputs, got, strict=True)), placement(events)

    def run(self, feed: Arrays, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """From host to host; all outputs, if none are named."""
        found: list[NDArray[Any]] = self.session.run(outputs, dict(feed))
        return found

    def bind(self, feed: Arrays, outputs: Sequence[str] | None = None) -> Any:
        """A binding for `run_bound`: inputs on the device, outputs left there."""
        tensors = {
            name: torch.from_numpy(np.array(array, order="C")).to(self.device)
            for name, array in feed.items()
        }
        self._bound += tensors.values()  # their memory must live as long as the session
        if self.device == "cuda":
            torch.cuda.synchronize()  # ONNX Runtime has a stream of its own
        binding = self.session.io_binding()
        for name, tensor in tensors.items():
            shape, kind = tuple(tensor.shape), feed[name].dtype.type
            binding.bind_input(name, self.device, 0, kind, shape, tensor.data_ptr())
        for name in outputs or self.outputs:
            binding.bind_output(name, self.device, 0)
        return binding

    def run_bound(self, binding: Any) -> None:
        """Returns when the results are there: ONNX Runtime waits for its stream at the end."""
        self.session.run_with_iobinding(binding)


def placement(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where the nodes of one run were computed, as figures of a row.

    events: ONNX Runtime's profile, one for each run of a kernel: more than nodes where a loop
    repeats them. Of a CUDA session also distinct nodes by device, those on the CPU by type.
    """
    nodes: dict[str, dict[str, str]] = {}
    runs = 0
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        told = event.get("args", {})
        nodes.setdefault(told.get("provider", "unknown"), {})[event["name"]] = told.get("op_name")
        runs += 1
    if CUDA not in nodes:
        return {"kernel_runs": runs}
    on_cpu = nodes.get(CPU, {})
    types = sorted(Counter(on_cpu.values()).items())
    return {
        "kernel_runs": runs,
        "nodes_on_gpu": len(nodes[CUDA]),
        "nodes_on_cpu": len(on_cpu),
        "on_cpu": ", ".join(f"{op} {n}" for op, n in types),
    }
