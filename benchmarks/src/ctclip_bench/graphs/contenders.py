"""Who runs a graph on this machine, at which precision, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctclip_bench.graphs.cases import ENCODERS, Case
from ctclip_bench.graphs.peers import peer
from ctclip_bench.graphs.runners import (
    OnnxRunner,
    OpenVINORunner,
    Runner,
    TensorRTRunner,
    missing_cuda_provider,
)
from ctclip_bench.graphs.subject import Subject
from ctclip_bench.graphs.tokens import ShowTokens, Voxels, tokens_of_graph, tokens_of_module
from ctclip_bench.graphs.torch_runner import TorchRunner, encoder_on, missing_compiler
from ctclip_client.errors import InvalidInput
from ctclip_client.system.processor import has_bfloat16
from ctclip_export.engines.run import EngineVision, missing_engine
from ctclip_export.parity.runtimes import (
    ONNX_RUNTIME_PRECISIONS,
    openvino_core,
    require_bfloat16,
)
from ctclip_export.precision.typed_twin import DTYPES

_NO_REFERENCE = "without --against there is no PyTorch model"


@dataclass(frozen=True)
class Contender:
    """One way to run a graph.

    make: loads it. missing: why it cannot run here, "" if it can be tried. served: the repository
    is served by it, so that a wrong answer is the release's; what a peer answers wrongly is said,
    and not timed. tokens: of the vision graph, see `tokens.py`.
    """

    runtime: str
    precision: str
    mode: str
    file: str
    make: Callable[[], Runner]
    missing: str = ""
    served: bool = False
    tokens: ShowTokens | None = None

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


def contenders(
    case: Case, subject: Subject, device: str, *, compiled: bool = True
) -> list[Contender]:
    """All of them, those that cannot run here too; ONNX Runtime first, what others are compared to.

    device: "cpu" or "cuda". compiled: whether torch.compile is wanted.
    """
    found = []
    for path in case.files:
        found += [*_onnx_runtime(case, path, device)]
        found += [*_openvino(case, path)] if device == "cpu" else [*_tensorrt(case, path)]
    return [*found, *_pytorch(case, subject, device, compiled=compiled)]


def _onnx_runtime(case: Case, path: Path, device: str) -> Iterator[Contender]:
    missing = missing_cuda_provider() if device == "cuda" else ""
    if device == "cpu" and case.precision not in ONNX_RUNTIME_PRECISIONS:
        missing = f"its CPU provider has no {case.precision} kernels"
    yield Contender(
        "ONNX Runtime", case.precision, "CUDA, no TF32" if device == "cuda" else "CPU", path.name,
        lambda: OnnxRunner(path, device), missing, served=True,
        tokens=_from_graph(case, path, lambda file: OnnxRunner(file, device)),
    )  # fmt: skip


def _openvino(case: Case, path: Path) -> Iterator[Contender]:
    low = case.precision not in ONNX_RUNTIME_PRECISIONS
    yield Contender(
        "OpenVINO", case.precision, "CPU", path.name, lambda: OpenVINORunner(path),
        _refusal(require_bfloat16 if low else openvino_core), served=case.word in ENCODERS,
        tokens=_from_graph(case, path, OpenVINORunner),
    )  # fmt: skip
    if case.word in ENCODERS and case.precision == "fp32":
        make = partial(OpenVINORunner, precision="bf16")
        yield Contender(
            "OpenVINO", "bf16", "CPU, bf16 inference", path.name, lambda: make(path),
            _refusal(require_bfloat16), tokens=_from_graph(case, path, make),
        )  # fmt: skip


def _tensorrt(case: Case, path: Path) -> Iterator[Contender]:
    if case.word not in ENCODERS:
        return

    def tokens(volumes: Voxels) -> list[NDArray[np.float32]]:
        engine = EngineVision(path, case.precision)
        return [engine.run(voxels)[1].cpu().numpy() for voxels in volumes]

    yield Contender(
        "TensorRT", case.precision, "plan", path.name,
        lambda: TensorRTRunner(case.model, path, case.precision), missing_engine(path), served=True,
        tokens=tokens if case.word == "vision" else None,
    )  # fmt: skip


def _pytorch(case: Case, subject: Subject, device: str, *, compiled: bool) -> Iterator[Contender]:
    precisions = ["fp32"]
    if case.word in ENCODERS:
        if device == "cuda":
            precisions += ["fp16", "bf16"]
        elif case.precision in DTYPES and case.precision != "fp32":
            precisions.append(case.precision)
    modes = ["eager", "compiled", *(["CUDA graph"] if device == "cuda" else [])]
    for precision in precisions:
        for mode in modes:
            missing = _no_pytorch(case, precision, mode, device)
            if subject.model is None:
                missing = _NO_REFERENCE
            if mode == "compiled" and not compiled:
                missing = missing or "--no-compile"
            yield Contender(
                "PyTorch", precision, mode, "checkpoint",
                partial(_torch_runner, case, subject, precision, device, mode), missing,
                tokens=_from_model(case, subject, precision, device),
            )  # fmt: skip


def _torch_runner(case: Case, subject: Subject, precision: str, device: str, mode: str) -> Runner:
    names = [tensor.name for tensor in case.model.outputs]
    return TorchRunner(peer(subject, case.word, precision, device), names, device, mode)


def _no_pytorch(case: Case, precision: str, mode: str, device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        return "this torch sees no GPU"
    if device == "cpu" and precision == "fp16":
        return "PyTorch multiplies float16 on CPUs in a plain loop"
    if device == "cpu" and precision == "bf16" and not has_bfloat16():
        return "this CPU has no bfloat16 arithmetic (AVX-512 BF16 or AMX)"
    if case.word == "preprocess" and mode != "eager":
        return "sizes follow from each scan's spacing: every scan would be compiled anew"
    return missing_compiler(device) if mode == "compiled" else ""


def _refusal(load: Callable[[], object]) -> str:
    try:
        load()
    except InvalidInput as error:
        return error.cause
    return ""


def _from_graph(case: Case, path: Path, make: Callable[[Path], Runner]) -> ShowTokens | None:
    return tokens_of_graph(path, make) if case.word == "vision" else None


def _from_model(case: Case, subject: Subject, precision: str, device: str) -> ShowTokens | None:
    if case.word != "vision" or subject.model is None:
        return None
    make = partial(encoder_on, subject.model.vision, precision, device)
    return tokens_of_module(make, device)
