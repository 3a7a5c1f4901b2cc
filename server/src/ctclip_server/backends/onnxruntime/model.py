"""Drop-in for Triton's C++ ONNX Runtime backend, as a Python-based backend.

Triton starts it in its Python stub for every model whose config says `backend: "onnxruntime"`. It
executes the file of that model's version folder by that model's config, and knows nothing else.
"""

from __future__ import annotations

import ctclip_server  # noqa: F401 (first: it forbids the runtime to report to its maker)

# isort: split
import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import triton_python_backend_utils as pb_utils

from ctclip_client.release.onnx_file import read_versions
from ctclip_server.backends.shared.options import (
    ONNXRUNTIME,
    ConfigError,
    check_fields,
    cuda_options,
    default_threads,
    graph_level,
    read_parameters,
)
from ctclip_server.backends.shared.rounds import RefusedError, Tensors, answer
from ctclip_server.backends.shared.signature import (
    FREE,
    GraphTensor,
    check_tensors,
    model_path,
)

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_CUDA = "CUDAExecutionProvider"
_SHRINKAGE = "memory.enable_memory_arena_shrinkage"


class TritonPythonModel:
    """One model instance: one ONNX Runtime session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file and refuse what the C++ backend would refuse, or what is not implemented.

        Raises:
            TritonModelException: config and file do not go together.
        """
        config = json.loads(args["model_config"])
        try:
            check_fields(config)
            parameters = read_parameters(config, ONNXRUNTIME)
            folder = Path(args["model_repository"], args["model_version"])
            path = model_path(config, folder, "model.onnx")
            cuda = cuda_options(config, parameters, args["model_instance_device_id"])
            providers = _providers(args["model_instance_kind"], cuda)
            self._session = _load(path, _options(config, parameters), providers)
            check_tensors(config, "input", _tensors(self._session.get_inputs()))
            check_tensors(config, "output", _tensors(self._session.get_outputs()), exact=True)
        except ConfigError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._batched = config.get("max_batch_size", 0) > 0
        self._run_options = ort.RunOptions()
        if _SHRINKAGE in parameters:
            self._run_options.add_run_config_entry(_SHRINKAGE, parameters[_SHRINKAGE])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one scheduling round: in one run if the model is batched."""
        return answer(requests, self._feed, self._run, batched=self._batched)

    def _feed(self, request: Any) -> Tensors:
        """The request's inputs as ONNX Runtime takes them: views of Triton's shared memory."""
        feed = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for name, array in feed.items():
            if self._batched and array.shape[0] == 0:
                raise RefusedError(f"input '{name}' has a batch of 0", invalid=True)
        return feed

    def _run(self, names: list[str], feed: Tensors) -> Tensors:
        try:
            values = self._session.run(names, feed, self._run_options)
        except Exception as error:  # noqa: BLE001 (ONNX Runtime's errors have no common class)
            raise RefusedError(_one_line(error)) from None
        return dict(zip(names, values, strict=True))


def _options(config: dict[str, Any], parameters: dict[str, Any]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[graph_level(config)]
    threads = parameters.get("intra_op_thread_count") or default_threads()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.inter_op_num_threads = parameters.get("inter_op_thread_count", 0)
    options.enable_cpu_mem_arena = parameters.get("enable_mem_arena", True)
    # Each model is a process with its own threads: those of one that has finished must not spin
    # on the cores that the next step of an ensemble needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _load(path: Path, options: ort.SessionOptions, providers: list[Any]) -> ort.InferenceSession:
    try:
        unknown = read_versions(path).unknown_to_production()
    except (ValueError, OSError) as error:
        raise ConfigError(f"failed to load '{path}': {error}") from None
    if unknown:
        raise ConfigError(f"failed to load '{path}': {unknown}")
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's errors have no common class)
        raise ConfigError(f"failed to load '{path}': {_one_line(error)}") from None
    if len(providers) > 1 and _CUDA not in session.get_providers():  # it fell back in silence
        raise ConfigError(
            f"failed to load '{path}': ONNX Runtime cannot start its CUDA provider; its CUDA and "
            "cuDNN have to be here, and fit the driver"
        )
    return session


def _providers(kind: str, cuda: dict[str, str]) -> list[Any]:
    if kind == "GPU":
        if _CUDA in ort.get_available_providers():
            with contextlib.redirect_stdout(sys.stderr):  # where it says what it does not find
                ort.preload_dlls()  # CUDA's libraries of pip lie where the loader does not look
            return [(_CUDA, cuda), "CPUExecutionProvider"]
        pb_utils.Logger.log_warn(
            "this ONNX Runtime has no CUDA provider: a GPU instance runs on the CPU"
        )
    return ["CPUExecutionProvider"]


def _tensors(arguments: list[Any]) -> dict[str, GraphTensor]:
    """ONNX Runtime's NodeArgs by name; what is no tensor (a sequence, a map) has an odd dtype."""
    return {
        argument.name: GraphTensor(
            argument.type.removeprefix("tensor(").removesuffix(")"),
            tuple(dim if isinstance(dim, int) and dim >= 0 else FREE for dim in argument.shape),
        )
        for argument in arguments
    }


def _one_line(error: Exception) -> str:
    """ONNX Runtime's reason as the C++ backend words it: `onnx runtime error 2: …`."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : (\d+) : \w+ : ", r"onnx runtime error \1: ", text)
