"""Run a plan on the GPU it was built for, for comparison: TensorRT itself, without a server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_client.contract import VISION, Model
from ctclip_client.errors import CTClipError
from ctclip_client.release.digest import sha256
from ctclip_export.engines.compiler import Job, logger_of
from ctclip_export.engines.gpu import read_gpu
from ctclip_export.engines.key import Key, require
from ctclip_export.engines.process import compile_in_process
from ctclip_export.engines.profile import profile_of
from ctclip_export.engines.target import TENSORRT, EngineError, load_library
from ctclip_export.engines.versions import library_version
from ctclip_export.parity.runtimes import searched_tokens

_DTYPES = {"FLOAT": torch.float32, "INT32": torch.int32, "INT64": torch.int64}


def missing_engine(graph: Path) -> str:
    """Why the plan beside an ONNX file cannot be run on this machine; "" if it can be tried."""
    if not (graph.parent / TENSORRT.plan).is_file():
        return f"no {TENSORRT.plan} in the repository: ctclip build-engines makes it"
    try:
        load_library(TENSORRT)
        read_gpu()
    except CTClipError as error:
        return error.cause
    if not torch.cuda.is_available():
        return "this torch has no CUDA: install its CUDA build, which moves tensors to the GPU"
    return ""


class Engine:
    """One plan and its execution context on the GPU."""

    def __init__(self, plan: Path) -> None:
        """Raises: EngineError if TensorRT does not take the file, or the GPU has no room for it."""
        self._library = load_library(TENSORRT)
        logger = logger_of(self._library)
        self._runtime = self._library.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise EngineError(
                f"engine: {plan} cannot be loaded: {_said(logger)}.", "Build it again."
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"engine: {plan} cannot be run: {_said(logger)}.",
                "Usually GPU memory is short: nvidia-smi shows what holds it. End that, or take a "
                "larger GPU.",
            )
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name. Raises: EngineError for inputs outside of the plan's profile."""
        mode = self._library.TensorIOMode
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        held: dict[str, Tensor] = {}
        for name in (n for n in names if self._engine.get_tensor_mode(n) == mode.INPUT):
            held[name] = torch.from_numpy(np.ascontiguousarray(inputs[name])).cuda()
            if not self._context.set_input_shape(name, tuple(held[name].shape)):
                raise EngineError(
                    f"engine: {name} has shape {list(held[name].shape)}, which is outside of the "
                    "shapes the plan was built for."
                )
        outputs = [n for n in names if n not in held]
        for name in outputs:
            dtype = _DTYPES[self._engine.get_tensor_dtype(name).name]
            shape = tuple(self._context.get_tensor_shape(name))
            held[name] = torch.empty(shape, dtype=dtype, device="cuda")
        for name, tensor in held.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        torch.cuda.synchronize()  # the copies above ran on another stream
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise EngineError("engine: TensorRT could not run the plan.")
        self._stream.synchronize()
        return {name: held[name].cpu().numpy() for name in outputs}


def _said(logger: Any) -> str:
    return str(logger.errors[-1]) if logger.errors else "no reason given"


class EngineVision:
    """The vision plan of a repository, and what a twin of it with one more output searches with.

    The plan that serves hides its tokens. So the same graph is compiled once more with the tokens
    as an output, for the error of the similarity on this GPU; codes and embeddings that are judged
    come from the plan that serves.
    """

    def __init__(self, graph: Path, precision: str) -> None:
        """Raises: EngineError if the plan is not the one that belongs to this graph and GPU."""
        self._plan = checked_engine(VISION, graph, precision)
        proto = onnx.load(graph)
        self._tokens = searched_tokens(proto.graph)
        proto.graph.output.append(
            onnx.helper.make_tensor_value_info(self._tokens, onnx.TensorProto.FLOAT, None)
        )
        with tempfile.TemporaryDirectory(
            prefix="ctclip-probe-", ignore_cleanup_errors=True
        ) as folder:
            probe = Path(folder) / "model.onnx"
            onnx.save(proto, probe)
            del proto
            job = Job(
                TENSORRT.name, VISION.name, str(probe), f"{folder}/probe.plan",
                read_gpu().compute_capability, profile_of(VISION, graph),
            )  # fmt: skip
            compile_in_process(job)
            self._probe = Engine(Path(job.plan))

    def run(self, voxels: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], Tensor]:
        """See `ctclip_export.parity.runtimes.VisionRuntime`."""
        outputs = self._plan.run({"VOXELS": voxels})
        tokens = self._probe.run({"VOXELS": voxels})[self._tokens]
        return outputs, torch.from_numpy(tokens).reshape(-1, tokens.shape[-1])


def checked_engine(model: Model, graph: Path, precision: str) -> Engine:
    """The plan beside an ONNX file, if it was built from it, by this TensorRT and for this GPU.

    Raises: EngineError saying what differs.
    """
    key = Key(
        sha256(graph), library_version(load_library(TENSORRT)), read_gpu().compute_capability,
        profile_of(model, graph), precision,
    )  # fmt: skip
    require(graph.parent, TENSORRT.plan, key)
    return Engine(graph.parent / TENSORRT.plan)
