"""Who runs a graph on this machine, at which precision, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctclip_bench.graphs.cases import ENCODERS, Case
from ctclip_bench.graphs.runners import (
    OnnxRunner,
    OpenVINORunner,
    Runner,
    TensorRTRunner,
    Tokens,
    Voxels,
    missing_cuda_provider,
    tokens_of_graph,
)
from ctclip_bench.graphs.torch_runner import (
    Function,
    TorchRunner,
    encoder_on,
    fitted_float32,
    missing_compiler,
    tokens_of_module,
)
from ctclip_client.errors import InvalidInput
from ctclip_client.system.processor import has_bfloat16
from ctclip_export.engines.run import EngineVision, missing_engine
from ctclip_export.parity.runtimes import (
    ONNX_RUNTIME_PRECISIONS,
    openvino_core,
    require_bfloat16,
)
from ctclip_export.precision.typed_twin import DTYPES


@dataclass(frozen=True)
class Contender:
    """One way to run a graph.

    make: loads it. missing: why it cannot run here, "" if it can be tried. served: the repository
    is served by it, so that a wrong answer is the release's; what a peer answers wrongly is said,
    and not timed. tokens: of the vision graph, see `Tokens`.
    """

    runtime: str
    precision: str
    mode: str
    file: str
    make: Callable[[], Runner]
    tokens: Callable[[Voxels], Tokens]
    missing: str = ""
    served: bool = False

    @property
    def name(self) -> str:
        """As the table says it."""
        form = "" if self.file in ("model.onnx", "checkpoint") else f" ({self.file})"
        mode = f", {self.mode}" if self.runtime == "PyTorch" else ""
        return f"{self.runtime} {self.precision}{mode}{form}"

    def settings(self, batch: int) -> dict[str, Any]:
        """For a row."""
        return {
            "runtime": self.runtime, "precision": self.precision, "file": self.file,
            "mode": self.mode, "batch": batch,
        }  # fmt: skip


def contenders(case: Case, device: str, *, compiled: bool = True) -> list[Contender]:
    """All of them, those that cannot run here too; ONNX Runtime first, what others are compared to.

    device: "cpu" or "cuda". compiled: whether torch.compile is wanted.
    """
    found, encoder = [], case.word in ENCODERS
    for path in case.files:
        found.append(_onnx_runtime(case, path, device))
        if device == "cpu":
            found.append(_openvino(path, "CPU", case.precision, "f32", served=encoder))
            if encoder and case.precision == "fp32":
                found.append(_openvino(path, "CPU, bf16 inference", "bf16", "bf16"))
        elif encoder:
            found.append(_tensorrt(case, path))
    precisions = ["fp32"]
    if encoder and device == "cuda":
        precisions += ["fp16", "bf16"]
    elif encoder and case.precision in DTYPES and case.precision != "fp32":
        precisions.append(case.precision)
    modes = ["eager", "compiled", *(["CUDA graph"] if device == "cuda" else [])]
    return found + [
        _pytorch(case, precision, mode, device, compiled=compiled)
        for precision in precisions
        for mode in modes
    ]


def _onnx_runtime(case: Case, path: Path, device: str) -> Contender:
    missing = missing_cuda_provider() if device == "cuda" else ""
    if device == "cpu" and case.precision not in ONNX_RUNTIME_PRECISIONS:
        missing = f"its CPU provider has no {case.precision} kernels"
    mode = "CUDA, no TF32" if device == "cuda" else "CPU"
    make = partial(OnnxRunner, device=device)
    return Contender(
        "ONNX Runtime", case.precision, mode, path.name, partial(make, path),
        partial(tokens_of_graph, path, make), missing, served=True,
    )  # fmt: skip


def _openvino(
    path: Path, mode: str, precision: str, hint: str, *, served: bool = False
) -> Contender:
    missing = ""
    try:
        openvino_core() if precision in ONNX_RUNTIME_PRECISIONS else require_bfloat16()
    except InvalidInput as error:
        missing = error.cause
    make = partial(OpenVINORunner, precision=hint)
    return Contender(
        "OpenVINO", precision, mode, path.name, partial(make, path),
        partial(tokens_of_graph, path, make), missing, served,
    )  # fmt: skip


def _tensorrt(case: Case, path: Path) -> Contender:
    def tokens(volumes: Voxels) -> Tokens:
        engine = EngineVision(path, case.precision)
        return [engine.run(voxels)[1].cpu().numpy() for voxels in volumes]

    make = partial(TensorRTRunner, case.model, path, case.precision)
    return Contender(
        "TensorRT", case.precision, "plan", path.name, make, tokens, missing_engine(path),
        served=True,
    )  # fmt: skip


def _pytorch(case: Case, precision: str, mode: str, device: str, *, compiled: bool) -> Contender:
    """With what does not change from scan to scan made before."""
    subject, on_cpu = case.subject, device == "cpu"

    def function() -> Function:
        if case.word in ENCODERS:
            return encoder_on(getattr(subject.model, case.word), precision, device)
        if case.word == "preprocess":
            return partial(fitted_float32, subject.inputs.release.geometry)
        return subject.served.function(case.word, device)

    def make() -> Runner:
        names = [tensor.name for tensor in case.model.outputs]
        return TorchRunner(function(), names, device, mode)

    reasons = {
        "without --against there is no PyTorch model": subject.model is None,
        "this torch sees no GPU": not on_cpu and not torch.cuda.is_available(),
        "PyTorch multiplies float16 on CPUs in a plain loop": on_cpu and precision == "fp16",
        "this CPU has no bfloat16 arithmetic (AVX-512 BF16 or AMX)": (
            on_cpu and precision == "bf16" and not has_bfloat16()
        ),
        "sizes follow from each scan's spacing: every scan would be compiled anew": (
            case.word == "preprocess" and mode != "eager"
        ),
        "--no-compile": mode == "compiled" and not compiled,
        missing_compiler(device): mode == "compiled",
    }
    missing = next((reason for reason, holds in reasons.items() if holds), "")
    tokens = partial(tokens_of_module, function, device)
    return Contender("PyTorch", precision, mode, "checkpoint", make, tokens, missing)
