"""Drop-in for Triton's C++ OpenVINO backend, as a Python-based backend.

Triton starts it in its Python stub for every model whose config says `backend: "openvino"`. It
executes the file of that model's version folder by that model's config, and knows nothing else.
"""

from __future__ import annotations

import ctclip_server  # noqa: F401 (first: it forbids the runtime to report to its maker)

# isort: split
import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import triton_python_backend_utils as pb_utils

from ctclip_server.backends.shared.options import (
    NO_BFLOAT16,
    OPENVINO,
    WITHOUT_EFFECT_IN_OPENVINO,
    ConfigError,
    check_fields,
    read_parameters,
)
from ctclip_server.backends.shared.rounds import RefusedError, Tensors, answer
from ctclip_server.backends.shared.signature import (
    FREE,
    GraphTensor,
    check_tensors,
    model_path,
)

_DEVICE = "CPU"
_PRECISION = "INFERENCE_PRECISION_HINT"


class TritonPythonModel:
    """One model instance: one compiled model, for inputs of every size that its axes allow."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file and refuse what the C++ backend would refuse, or what is not implemented.

        Raises:
            TritonModelException: config and file do not go together.
        """
        config = json.loads(args["model_config"])
        try:
            check_fields(config, WITHOUT_EFFECT_IN_OPENVINO)
            if args["model_instance_kind"] != _DEVICE:
                raise ConfigError("Triton openVINO backend supports only CPU device")
            if batch := config.get("max_batch_size", 0):
                # The C++ backend fixes the first axis to it: every request would cost a full batch.
                raise ConfigError(f"max_batch_size: got {batch}, expected 0 and a free first axis")
            parameters = read_parameters(config, OPENVINO)
            folder = Path(args["model_repository"], args["model_version"])
            path = model_path(config, folder, "model.xml")
            compiled = _compile(path, parameters)
            check_tensors(config, "input", _tensors(compiled.inputs))
            check_tensors(config, "output", _tensors(compiled.outputs))
        except ConfigError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        pb_utils.Logger.log_info(
            f"'{config['name']}' computes in {_arithmetic(compiled)} with OpenVINO "
            f"{ov.__version__.split('-')[0]}, {compiled.get_property('INFERENCE_NUM_THREADS')} "
            f"threads, {compiled.get_property('NUM_STREAMS')} streams"
        )
        self._request = compiled.create_infer_request()
        names = [entry["name"] for entry in config["output"]]
        self._outputs = {name: compiled.output(name) for name in names}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one scheduling round, one after the other."""
        return answer(requests, _feed, self._run, batched=False)

    def _run(self, names: list[str], feed: Tensors) -> Tensors:
        try:
            values = self._request.infer(feed, share_inputs=True)
            return {name: values[self._outputs[name]] for name in names}
        except RuntimeError as error:
            raise RefusedError(_one_line(error)) from None


def _feed(request: Any) -> Tensors:
    """The request's inputs: views of Triton's shared memory."""
    inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    for name, array in inputs.items():
        if 0 in array.shape:
            # OpenVINO would compute something out of nothing.
            raise RefusedError(
                f"input '{name}': got shape {list(array.shape)}, expected no axis of size 0",
                invalid=True,
            )
        if array.dtype == np.int64 and not _fits_int32(array):
            # OpenVINO would drop the upper half of each number and answer for the lower one.
            raise RefusedError(
                f"input '{name}': got numbers from {array.min()} to {array.max()}, expected "
                "some that OpenVINO can hold in 32 bits",
                invalid=True,
            )
    return inputs


def _fits_int32(array: np.ndarray[Any, Any]) -> bool:
    limits = np.iinfo(np.int32)
    return bool(array.min() >= limits.min and array.max() <= limits.max)


def _compile(path: Path, parameters: dict[str, Any]) -> ov.CompiledModel:
    """Compile for the arithmetic asked for: float32 unless the config says bf16.

    Left to itself, OpenVINO takes bf16 on every CPU that has it, and answers would depend on the
    machine.
    """
    core = ov.Core()
    precision = "bf16" if parameters.pop("HINT_BF16", False) else "f32"
    if precision == "bf16" and "BF16" not in core.get_property(
        _DEVICE, "OPTIMIZATION_CAPABILITIES"
    ):
        # OpenVINO would take float32 instead, or imitate bf16 slowly, by what else it finds.
        raise ConfigError(f"{NO_BFLOAT16}, and bf16 is asked for")
    try:
        properties = {**parameters, _PRECISION: precision}
        compiled = core.compile_model(core.read_model(path), _DEVICE, properties)
    except RuntimeError as error:
        raise ConfigError(f"failed to load '{path}': {_one_line(error)}") from None
    if _arithmetic(compiled) != precision:
        raise ConfigError(
            f"OpenVINO computes in {_arithmetic(compiled)} though {precision} was asked for"
        )
    return compiled


def _arithmetic(compiled: ov.CompiledModel) -> str:
    return str(compiled.get_property(_PRECISION).get_type_name())


def _tensors(ports: list[Any]) -> dict[str, GraphTensor]:
    return {
        port.get_any_name(): GraphTensor(
            port.get_element_type().get_type_name(),
            tuple(dim.get_length() if dim.is_static else FREE for dim in port.get_partial_shape()),
        )
        for port in ports
    }


def _one_line(error: Exception) -> str:
    """OpenVINO's reason without the places in its source that it passed through."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return "openvino error: " + " ".join(kept or lines)
