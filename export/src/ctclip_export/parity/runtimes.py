"""Runtimes that an exported vision graph is judged in, with its unit tokens made visible."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_client.contract import VISION
from ctclip_client.errors import InvalidInput
from ctclip_export.graphs.run import run_onnx
from ctclip_export.parity.providers import CPU, Providers, open_session

ONNX_RUNTIME_PRECISIONS = frozenset({"fp32", "fp16", "int8"})
"""ONNX Runtime's CPU provider has almost no bfloat16 kernels; OpenVINO runs such a graph."""

OPENVINO_OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
"""By itself OpenVINO would take bfloat16 for everything where the CPU has it, the islands too."""

_OUTPUTS = tuple(tensor.name for tensor in VISION.outputs)


RunText = Callable[[Path, NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


class VisionRuntime(Protocol):
    """One way to run a vision graph."""

    def run(self, voxels: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], Tensor]:
        """Outputs by name for VOXELS (1, 1, D, H, W), and the unit tokens (N, W) float32."""
        ...


class OnnxRuntimeVision:
    """ONNX Runtime, on the CPU unless another provider is named."""

    def __init__(self, path: Path, providers: Providers = CPU) -> None:
        """Load the graph with one more output: what goes into the code search.

        Raises: ValueError if the graph has no code search; NoProvider; onnxruntime's own errors if
        it cannot run here.
        """
        model = onnx.load(path)
        self._tokens = searched_tokens(model.graph)
        model.graph.output.append(onnx.ValueInfoProto(name=self._tokens))
        # Beside the file that is judged there may be no room; a path spares a copy of 700 MB.
        with tempfile.TemporaryDirectory(
            prefix="ctclip-parity-", ignore_cleanup_errors=True
        ) as folder:
            visible = Path(folder) / "model.onnx"
            onnx.save(model, visible)
            del model
            self._session = open_session(visible, providers)

    def run(self, voxels: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], Tensor]:
        """See `VisionRuntime`."""
        *outputs, tokens = self._session.run([*_OUTPUTS, self._tokens], {"VOXELS": voxels})
        return dict(zip(_OUTPUTS, outputs, strict=True)), _flat(tokens)


class OpenVINOVision:
    """OpenVINO on the CPU, in the precisions that the graph states and no lower one.

    Of the CPU runtimes it alone has bfloat16 kernels: the trunk of a bf16 graph runs in them, its
    float32 islands in float32.
    """

    def __init__(self, path: Path) -> None:
        """Raises: InvalidInput where OpenVINO is not installed; its own errors if it cannot run."""
        model = openvino_core().read_model(path)
        self._tokens = searched_tokens(onnx.load(path, load_external_data=False).graph)
        model.add_outputs(self._tokens)
        self._compiled = openvino_core().compile_model(model, "CPU", OPENVINO_OPTIONS)

    def run(self, voxels: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], Tensor]:
        """See `VisionRuntime`."""
        answer = self._compiled({"VOXELS": voxels})
        outputs = {name: np.array(answer[name]) for name in _OUTPUTS}
        return outputs, _flat(np.array(answer[self._tokens]))


def cpu_runtime(
    precision: str,
) -> tuple[str, Callable[[Path], VisionRuntime], RunText]:
    """What runs graphs of a precision on a CPU: its name, and how it runs vision and text.

    Raises: InvalidInput if that is OpenVINO, and it is not installed or has no bfloat16 here.
    """
    if precision in ONNX_RUNTIME_PRECISIONS:
        return "ONNX Runtime", OnnxRuntimeVision, run_text_onnx
    require_bfloat16()
    return "OpenVINO", OpenVINOVision, run_text_openvino


def run_text_onnx(
    path: Path, ids: NDArray[np.int64], mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """TEXT_EMBEDDING (N, E) of ids and mask (N, L), by ONNX Runtime on the CPU."""
    outputs = run_onnx(path, {"INPUT_IDS": ids, "ATTENTION_MASK": mask})
    embedding: NDArray[np.float32] = outputs["TEXT_EMBEDDING"]
    return embedding


def run_text_openvino(
    path: Path, ids: NDArray[np.int64], mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The same by OpenVINO. Raises: InvalidInput where it is not installed."""
    compiled = openvino_core().compile_model(path, "CPU", OPENVINO_OPTIONS)
    return np.array(compiled({"INPUT_IDS": ids, "ATTENTION_MASK": mask})["TEXT_EMBEDDING"])


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's `Core`, one for the life of the process.

    Its CPU plugin gives the compiling thread a stack for signals, and takes that memory back in
    whatever thread lets go of the last Core: the next Ctrl-C would then end in a segmentation
    fault.

    Raises: InvalidInput with the line that installs OpenVINO.
    """
    try:
        import openvino
    except ImportError as error:
        raise InvalidInput(
            f"openvino: {error}.", "Install it: pip install openvino (it runs bf16 graphs on CPUs)."
        ) from error
    return openvino.Core()


def require_bfloat16() -> None:
    """Raises: InvalidInput unless OpenVINO is here, on a CPU with bfloat16 arithmetic.

    Elsewhere it would compute in float32.
    """
    if "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InvalidInput(
            "openvino: this CPU has no bfloat16 arithmetic (AVX-512 BF16 or AMX).",
            "Judge the bf16 graph on a CPU or GPU that has it.",
        )


def searched_tokens(graph: onnx.GraphProto) -> str:
    """Name of the tensor that the code search multiplies with the codebook.

    Raises: ValueError.
    """
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "ArgMax":
            search = makers.get(node.input[0])
            if search is not None and search.op_type == "MatMul":
                return str(search.input[0])
    raise ValueError("the graph has no code search (ArgMax over a MatMul)")


def _flat(tokens: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(tokens).reshape(-1, tokens.shape[-1]).float()
