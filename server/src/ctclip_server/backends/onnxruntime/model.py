"""Drop-in for Triton's C++ ONNX Runtime backend, as a Python-based backend.

Triton starts it in its Python stub for every model whose config says `backend: "onnxruntime"`. It
executes the file of that model's version folder by that model's config, and knows nothing else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

from ctclip_server.backends.shared.batching import Tensors
from ctclip_server.backends.shared.onnx_header import read_header, refusal
from ctclip_server.backends.shared.options import Settings, default_threads, read_settings
from ctclip_server.backends.shared.rounds import RefusedError, answer, told
from ctclip_server.backends.shared.signature import (
    MismatchError,
    check_inputs,
    check_outputs,
    check_unsupported,
    configured_dims,
    graph_tensors,
)

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class TritonPythonModel:
    """One model instance: one ONNX Runtime session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file and refuse what the C++ backend would refuse.

        Raises:
            TritonModelException: config and file do not go together.
        """
        config = json.loads(args["model_config"])
        kind = args["model_instance_kind"]
        try:
            check_unsupported(config)
            settings = read_settings(config, kind)
            for sentence in settings.ignored:
                pb_utils.Logger.log_warn(f"'{config['name']}' ignores {sentence}")
            path = _model_path(config, Path(args["model_repository"], args["model_version"]))
            self._session = _load(path, settings, kind, int(args["model_instance_device_id"]))
            self._inputs = graph_tensors(self._session.get_inputs())
            optional = graph_tensors(self._session.get_overridable_initializers())
            outputs = graph_tensors(self._session.get_outputs())
            check_inputs(config, self._inputs, optional)
            check_outputs(config, outputs)
        except MismatchError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._inputs.update(optional)
        self._batched = config.get("max_batch_size", 0) > 0
        # A scalar of the graph takes the axes that the config states for it, all of size 1.
        self._scalars = {
            entry["name"]: configured_dims(entry)
            for entry in config["output"]
            if not outputs[entry["name"]].dims
        }
        self._run_options = ort.RunOptions()
        for name, value in settings.run_entries.items():
            self._run_options.add_run_config_entry(name, value)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one scheduling round: in one run if their shapes allow it."""
        return answer(requests, self._feed, self._run, batched=self._batched)

    def _feed(self, request: Any) -> Tensors:
        """The request's inputs as ONNX Runtime takes them: views of Triton's shared memory."""
        feed: Tensors = {}
        for tensor in request.inputs():
            name, array = tensor.name(), tensor.as_numpy()
            if array.dtype == np.object_:
                array = _decoded(name, array)
            if self._batched and array.shape[0] == 0:
                raise RefusedError(f"input '{name}' has a batch of 0", invalid=True)
            if not self._inputs[name].dims:
                array = array.reshape(())
            feed[name] = array
        return feed

    def _run(self, names: list[str], feed: Tensors) -> Tensors:
        try:
            values = self._session.run(names, feed, self._run_options)
        except Exception as error:  # noqa: BLE001 (ONNX Runtime's errors have no common class)
            raise RefusedError(f"{_one_line(error)}; {told(feed)}", invalid=False) from None
        outputs = dict(zip(names, values, strict=True))
        for name, dims in self._scalars.items():
            if name in outputs:
                outputs[name] = outputs[name].reshape(dims)
        return outputs


def _model_path(config: dict[str, Any], folder: Path) -> Path:
    """The file to execute; a folder of that name holds it as model.onnx (as in the C++ backend)."""
    path = folder / (config.get("default_model_filename") or "model.onnx")
    if path.is_dir():
        path = path / "model.onnx"
    if not path.is_file():
        raise MismatchError(f"unable to find '{path}' for model instance '{config['name']}'")
    return path


def _load(path: Path, settings: Settings, kind: str, device: int) -> ort.InferenceSession:
    try:
        reason = refusal(read_header(path))
    except (ValueError, OSError) as error:
        raise MismatchError(f"failed to load '{path}': {error}") from None
    if reason is not None:
        raise MismatchError(f"failed to load '{path}': {reason}")
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[settings.level]
    threads = settings.intra_op_threads or default_threads()
    if threads is not None:
        options.intra_op_num_threads = threads
    if settings.inter_op_threads is not None:
        options.inter_op_num_threads = settings.inter_op_threads
    if settings.parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    if settings.memory_arena is not None:
        options.enable_cpu_mem_arena = settings.memory_arena
    if settings.memory_pattern is not None:
        options.enable_mem_pattern = settings.memory_pattern
    # Each model is a process with its own threads: those of one that has finished must not spin
    # on the cores that the next step of an ensemble needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    for name, value in settings.session_entries.items():
        options.add_session_config_entry(name, value)
    try:
        for library in settings.custom_operators:
            options.register_custom_ops_library(library)
        return ort.InferenceSession(str(path), options, providers=_providers(kind, device))
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's errors have no common class)
        raise MismatchError(f"failed to load '{path}': {_one_line(error)}") from None


def _providers(kind: str, device: int) -> list[Any]:
    if kind == "GPU":
        if "CUDAExecutionProvider" in ort.get_available_providers():
            return [("CUDAExecutionProvider", {"device_id": device}), "CPUExecutionProvider"]
        pb_utils.Logger.log_warn(
            "this ONNX Runtime has no CUDA provider: a GPU instance runs on the CPU"
        )
    return ["CPUExecutionProvider"]


def _decoded(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """BYTES as ONNX Runtime's Python takes them: text, which has to be UTF-8."""
    try:
        flat = [item.decode("utf-8") for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise RefusedError(f"input '{name}' is not UTF-8: {error.reason}", invalid=True) from None
    decoded = np.empty(len(flat), dtype=np.object_)
    decoded[:] = flat
    return decoded.reshape(array.shape)


def _one_line(error: Exception) -> str:
    """ONNX Runtime's reason as the C++ backend words it: `onnx runtime error 2: …`."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : (\d+) : \w+ : ", r"onnx runtime error \1: ", text)
