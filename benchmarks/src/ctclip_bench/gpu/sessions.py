"""ONNX Runtime on the device under measurement: sessions, bound tensors, where nodes ran."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_bench.gpu.rows import Missing

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_NO_KERNEL = "Could not find an implementation for"
Arrays = Mapping[str, NDArray[Any]]


def load_onnxruntime(device: str) -> Any:
    """The library, with what its CUDA provider needs. Raises: Missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Missing(f"onnxruntime: {error}") from error
    if device == "cuda":
        from ctclip_export.parity.providers import load_cuda_libraries  # imports onnxruntime

        load_cuda_libraries()
        if CUDA not in onnxruntime.get_available_providers():
            raise Missing(f"onnxruntime {onnxruntime.__version__} has no CUDA provider")
    return onnxruntime


@dataclass(frozen=True)
class Placement:
    """Where the nodes of one run were computed. nodes: distinct ones by provider; runs: of their
    kernels, more where a loop repeats them; on_cpu: those on the CPU by type, of a CUDA session.
    """

    nodes: dict[str, int]
    runs: int
    on_cpu: dict[str, int]

    def figures(self) -> dict[str, Any]:
        """For a row."""
        found: dict[str, Any] = {"kernel_runs": self.runs}
        if CUDA in self.nodes:
            found |= {"nodes_on_gpu": self.nodes[CUDA], "nodes_on_cpu": self.nodes.get(CPU, 0)}
            found["on_cpu"] = ", ".join(f"{op} {n}" for op, n in sorted(self.on_cpu.items()))
        return found


class Session:
    """A graph on the device; its first run is profiled, all others are not."""

    def __init__(self, path: Path, device: str, *, tf32: bool = False) -> None:
        """Raises: Missing, also for a type that no provider has kernels for; RuntimeError if the
        CUDA provider does not load.
        """
        ort = load_onnxruntime(device)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_profiling = True
        self._folder = tempfile.TemporaryDirectory(  # its end removes it
            prefix="ctclip-gpu-", ignore_cleanup_errors=True
        )
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        providers: list[Any] = [CPU]
        if device == "cuda":
            chosen = {"use_tf32": str(int(tf32)), "cudnn_conv_algo_search": "HEURISTIC"}
            providers.insert(0, (CUDA, chosen))
        self.device = device
        try:
            self.session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no common class
            if _NO_KERNEL not in str(error):
                raise
            raise Missing(f"ONNX Runtime: {str(error).splitlines()[0]}") from error
        self.session.disable_fallback()
        if device == "cuda" and CUDA not in self.session.get_providers():
            raise RuntimeError("ONNX Runtime cannot load its CUDA provider: see what it said")
        self.outputs = [output.name for output in self.session.get_outputs()]

    def profiled(self, feed: Arrays) -> tuple[dict[str, NDArray[Any]], Placement]:
        """The first run: all outputs by name, and where each node ran."""
        got = self.session.run(None, dict(feed))
        events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        return dict(zip(self.outputs, got, strict=True)), placement(events)

    def run(self, feed: Arrays, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """From host to host; all outputs, if none are named."""
        found: list[NDArray[Any]] = self.session.run(outputs, dict(feed))
        return found

    def bound(self, feed: Arrays, outputs: Sequence[str] | None = None) -> Bound:
        """Inputs on the device, outputs left there."""
        tensors = {
            name: torch.from_numpy(np.array(array, order="C")).to(self.device)
            for name, array in feed.items()
        }
        if self.device == "cuda":
            torch.cuda.synchronize()  # ONNX Runtime has a stream of its own
        io = self.session.io_binding()
        for name, tensor in tensors.items():
            shape, kind = tuple(tensor.shape), feed[name].dtype.type
            io.bind_input(name, self.device, 0, kind, shape, tensor.data_ptr())
        for name in outputs or self.outputs:
            io.bind_output(name, self.device, 0)
        return Bound(self.session, io, tensors)


@dataclass(frozen=True)
class Bound:
    """A session with its tensors in place. Calling it returns when the results are there: ONNX
    Runtime waits for its stream at the end of a run.
    """

    session: Any
    io: Any
    tensors: Mapping[str, Tensor]  # their memory must live as long

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.io)

    def results(self) -> list[NDArray[Any]]:
        """Of the last run, copied to the host, in the order of the binding."""
        found: list[NDArray[Any]] = self.io.copy_outputs_to_cpu()
        return found


def placement(events: Sequence[Mapping[str, Any]]) -> Placement:
    """From ONNX Runtime's profile: a list of events, one for each run of a kernel."""
    nodes: dict[str, dict[str, str]] = {}
    runs = 0
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        told = event.get("args", {})
        nodes.setdefault(told.get("provider", "unknown"), {})[event["name"]] = told.get("op_name")
        runs += 1
    on_cpu = Counter(nodes.get(CPU, {}).values()) if CUDA in nodes else {}
    return Placement({name: len(each) for name, each in nodes.items()}, runs, dict(on_cpu))
