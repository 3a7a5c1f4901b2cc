"""One graph in one runtime, ready to be timed: the file as it is, inputs in place beforehand."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_client.contract import Model
from ctclip_client.errors import InvalidInput
from ctclip_export.engines.run import checked_engine
from ctclip_export.engines.target import EngineError
from ctclip_export.parity.providers import load_cuda_libraries
from ctclip_export.parity.runtimes import OPENVINO_OPTIONS, openvino_core, searched_tokens

Feed = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]
Voxels = Sequence[NDArray[np.float32]]
"""VOXELS (1, 1, D, H, W) of some volumes."""
Tokens = list[NDArray[np.float32]]
"""Unit tokens (N, W) of each volume: what goes into the code search, which tells a runtime's error
of the similarity, and so which codes it may choose otherwise."""

CUDA = "CUDAExecutionProvider"


class Runner(Protocol):
    """`bind` puts inputs where they are computed with, `run` computes and leaves the outputs there,
    `outputs` fetches them. Only `run` is timed.
    """

    def bind(self, feed: Feed) -> None: ...
    def run(self) -> object: ...
    def outputs(self) -> Outputs: ...


def cores() -> int:
    """Cores that this process may use: the threads of every runtime."""
    return len(os.sched_getaffinity(0))


def missing_cuda_provider() -> str:
    """Why ONNX Runtime cannot use a GPU here; "" if it can be tried."""
    if CUDA in onnxruntime.get_available_providers():
        return ""
    return "this onnxruntime has no CUDA provider: install onnxruntime-gpu in its place"


class OnnxRunner:
    """ONNX Runtime, on the CPU or by its CUDA provider with inputs and outputs on the GPU."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Raises: InvalidInput where its CUDA provider does not start; its own errors."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = cores()
        options.inter_op_num_threads = 1
        # Its threads would go on spinning while the next runtime is measured.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            load_cuda_libraries()
            providers.insert(0, (CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}))
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        if device == "cuda" and CUDA not in self._session.get_providers():
            raise InvalidInput(  # it falls back in silence
                "ONNX Runtime could not start its CUDA provider.",
                "Do its CUDA and cuDNN fit this driver? Its log says more.",
            )
        self._device = device
        self._names = [output.name for output in self._session.get_outputs()]

    def bind(self, feed: Feed) -> None:
        """See `Runner`."""
        place = onnxruntime.OrtValue.ortvalue_from_numpy
        self._binding = self._session.io_binding()
        self._held = {  # on a CPU a value is the array's own memory
            name: place(np.ascontiguousarray(array), self._device, 0)
            for name, array in feed.items()
        }
        for name, value in self._held.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._names:
            self._binding.bind_output(name, self._device)

    def run(self) -> object:
        """See `Runner`."""
        self._session.run_with_iobinding(self._binding)  # returns when the device has finished
        return None

    def outputs(self) -> Outputs:
        """See `Runner`."""
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))


class OpenVINORunner:
    """OpenVINO on the CPU."""

    def __init__(self, path: Path, precision: str = "f32") -> None:
        """precision: "f32": the types that the graph states, and no lower one; "bf16": a float32
        graph's products in bfloat16.

        Raises: InvalidInput where OpenVINO is not installed, or does not take the graph.
        """
        options: dict[str, Any] = dict(OPENVINO_OPTIONS)
        if precision == "bf16":
            options = {"INFERENCE_PRECISION_HINT": "bf16", "EXECUTION_MODE_HINT": "PERFORMANCE"}
        options |= {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores()}
        try:
            compiled = openvino_core().compile_model(path, "CPU", options)
        except RuntimeError as error:  # many lines of where, and at the end, what
            lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
            raise InvalidInput(f"OpenVINO cannot load it: {lines[-1]}") from error
        self._names = [output.get_any_name() for output in compiled.outputs]
        self._request = compiled.create_infer_request()
        self._feed: dict[str, NDArray[Any]] = {}

    def bind(self, feed: Feed) -> None:
        """See `Runner`."""
        self._feed = {name: np.ascontiguousarray(array) for name, array in feed.items()}

    def run(self) -> object:
        """See `Runner`."""
        return self._request.infer(self._feed, share_inputs=True, share_outputs=True)

    def outputs(self) -> Outputs:
        """See `Runner`."""
        return {name: np.array(self._request.get_tensor(name).data) for name in self._names}


class TensorRTRunner:
    """TensorRT, by the plan beside an ONNX file, with inputs and outputs on the GPU."""

    def __init__(self, model: Model, graph: Path, precision: str) -> None:
        """Raises: EngineError if the plan is not the one that belongs to this graph and GPU."""
        self._plan = checked_engine(model, graph, precision)
        self._engine, self._context = self._plan._engine, self._plan._context
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self._outputs = [n for n in names if self._engine.get_tensor_mode(n).name != "INPUT"]
        self._placed: dict[str, Tensor] = {}

    def bind(self, feed: Feed) -> None:
        """See `Runner`."""
        for name, array in feed.items():
            tensor = torch.from_numpy(np.ascontiguousarray(array)).cuda()
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineError(f"engine: {name} {list(tensor.shape)} is outside of the plan.")
            self._placed[name] = tensor
        for name in self._outputs:
            kind = self._engine.get_tensor_dtype(name).name
            dtype = {"FLOAT": torch.float32, "INT32": torch.int32, "INT64": torch.int64}[kind]
            shape = tuple(self._context.get_tensor_shape(name))
            self._placed[name] = torch.empty(shape, dtype=dtype, device="cuda")
        for name, tensor in self._placed.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        torch.cuda.synchronize()

    def run(self) -> object:
        """See `Runner`."""
        # On the stream whose events take the time.
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError("engine: TensorRT could not run the plan.")
        return None

    def outputs(self) -> Outputs:
        """See `Runner`."""
        torch.cuda.synchronize()
        return {name: self._placed[name].cpu().numpy() for name in self._outputs}


def tokens_of_graph(path: Path, make: Callable[[Path], Runner], volumes: Voxels) -> Tokens:
    """By the vision graph with one more output, in the runtime that `make` loads it into: another
    graph, so it is never timed.
    """
    with tempfile.TemporaryDirectory(prefix="ctclip-tokens-", ignore_cleanup_errors=True) as folder:
        model = onnx.load(path)
        name = searched_tokens(model.graph)
        model.graph.output.append(onnx.ValueInfoProto(name=name))
        visible = Path(folder) / "model.onnx"
        onnx.save(model, visible)
        del model
        runner, found = make(visible), []
        for voxels in volumes:
            runner.bind({"VOXELS": voxels})
            runner.run()
            shown = runner.outputs()[name]
            found.append(shown.reshape(-1, shown.shape[-1]).astype(np.float32))
    return found
