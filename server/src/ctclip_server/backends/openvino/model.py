"""Drop-in for Triton's C++ OpenVINO backend, as a Python-based backend.

Triton starts it in its Python stub for every model whose config says `backend: "openvino"`. It
executes the file of that model's version folder by that model's config, and knows nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import triton_python_backend_utils as pb_utils

from ctclip_server.backends.shared.batching import Tensors
from ctclip_server.backends.shared.openvino_options import (
    NO_BFLOAT16,
    OpenVINOSettings,
    read_openvino_settings,
)
from ctclip_server.backends.shared.openvino_signature import DTYPES, check_tensors
from ctclip_server.backends.shared.rounds import RefusedError, answer, told
from ctclip_server.backends.shared.signature import (
    FREE,
    MismatchError,
    check_unsupported,
    configured_dims,
)

_DEVICE = "CPU"
_CAPABILITIES = "OPTIMIZATION_CAPABILITIES"


class TritonPythonModel:
    """One model instance: one compiled model, for inputs of every size that its axes allow."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file and refuse what the C++ backend would refuse.

        Raises:
            TritonModelException: config and file do not go together.
        """
        config = json.loads(args["model_config"])
        try:
            check_unsupported(config)
            if args["model_instance_kind"] != _DEVICE:
                raise MismatchError(
                    f"unable to load model '{config['name']}', Triton openVINO backend supports "
                    "only CPU device"
                )
            settings = read_openvino_settings(config)
            for sentence in settings.ignored:
                pb_utils.Logger.log_warn(f"'{config['name']}' ignores {sentence}")
            path = _model_path(config, Path(args["model_repository"], args["model_version"]))
            compiled = _compile(path, config, settings)
            _check_precision(config["name"], compiled, settings)
        except MismatchError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._request = compiled.create_infer_request()
        self._batch = int(config.get("max_batch_size", 0))
        self._pads = settings.pad_batches
        names = [entry["name"] for entry in config["output"]]
        self._outputs = {name: compiled.output(name) for name in names}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one scheduling round: in one run if their shapes allow it."""
        return answer(requests, self._feed, self._run, batched=self._batch > 0)

    def _feed(self, request: Any) -> Tensors:
        """The request's inputs: views of Triton's shared memory."""
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if self._batch and not self._pads:
            for name, array in inputs.items():
                if array.shape[0] != self._batch:
                    raise RefusedError(
                        f"input '{name}': expected requests with batch size '{self._batch}', got "
                        f"'{array.shape[0]}'... this error can be avoided by setting "
                        "'ENABLE_BATCH_PADDING' parameter in model configuration to 'YES' at a "
                        "performance cost.",
                        invalid=False,
                    )
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

    def _run(self, names: list[str], feed: Tensors) -> Tensors:
        size = next(iter(feed.values())).shape[0] if self._batch else 0
        if size < self._batch:
            feed = {name: _padded(array, self._batch) for name, array in feed.items()}
        try:
            values = self._request.infer(feed, share_inputs=True)
            outputs = {name: values[self._outputs[name]] for name in names}
        except RuntimeError as error:
            raise RefusedError(f"{_one_line(error)}; {told(feed)}", invalid=False) from None
        if size < self._batch:
            outputs = {name: array[:size] for name, array in outputs.items()}
        return outputs


def _fits_int32(array: np.ndarray[Any, Any]) -> bool:
    limits = np.iinfo(np.int32)
    return bool(array.min() >= limits.min and array.max() <= limits.max)


def _check_precision(model: str, compiled: ov.CompiledModel, settings: OpenVINOSettings) -> None:
    """Say in the log which arithmetic is in force, and refuse any other than the one asked for."""
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    pb_utils.Logger.log_info(
        f"'{model}' computes in {found} with OpenVINO {ov.__version__.split('-')[0]}, "
        f"{compiled.get_property('INFERENCE_NUM_THREADS')} threads, "
        f"{compiled.get_property('NUM_STREAMS')} streams"
    )
    if found != settings.precision:
        raise MismatchError(
            f"unable to load model '{model}', OpenVINO computes in {found} though "
            f"{settings.precision} was asked for"
        )


def _model_path(config: dict[str, Any], folder: Path) -> Path:
    path = folder / (config.get("default_model_filename") or "model.xml")
    if not path.exists():
        raise MismatchError(f"unable to find '{path}' for model '{config['name']}'")
    return path


def _compile(path: Path, config: dict[str, Any], settings: OpenVINOSettings) -> ov.CompiledModel:
    try:
        core = ov.Core()
        if settings.extension:
            core.add_extension(settings.extension)
        if settings.precision == "bf16" and "BF16" not in core.get_property(_DEVICE, _CAPABILITIES):
            # OpenVINO would take float32 instead, or imitate bf16 slowly, by what else it finds.
            raise MismatchError(
                f"unable to load model '{config['name']}', {NO_BFLOAT16}, and bf16 is asked for"
            )
        model = _conform(core.read_model(path), config, settings)
        for name, value in settings.properties.items():
            core.set_property(_DEVICE, {name: value})
        return core.compile_model(model, _DEVICE)
    except RuntimeError as error:
        raise MismatchError(f"failed to load '{path}': {_one_line(error)}") from None


def _conform(model: ov.Model, config: dict[str, Any], settings: OpenVINOSettings) -> ov.Model:
    """The graph as the config states it: its data types, its batch, its axes if asked for."""
    batch = config.get("max_batch_size", 0)
    check_tensors(config, "input", _shapes(model.inputs), any_dims=settings.reshape)
    if settings.reshape:
        model.reshape({entry["name"]: _stated_shape(entry, batch) for entry in config["input"]})
    steps = ov.preprocess.PrePostProcessor(model)
    for entry in config["input"]:
        tensor = steps.input(entry["name"]).tensor()
        tensor.set_element_type(_element_type(entry))
        if batch:
            tensor.set_layout(ov.Layout("N..."))
    model = steps.build()
    if batch:
        ov.set_batch(model, batch)
    check_tensors(config, "output", _shapes(model.outputs))
    steps = ov.preprocess.PrePostProcessor(model)
    for entry in config["output"]:
        steps.output(entry["name"]).tensor().set_element_type(_element_type(entry))
    return steps.build()


def _stated_shape(entry: dict[str, Any], batch: int) -> ov.PartialShape:
    dims = (*([batch] if batch else []), *configured_dims(entry))
    return ov.PartialShape([ov.Dimension() if dim == FREE else ov.Dimension(dim) for dim in dims])


def _element_type(entry: dict[str, Any]) -> ov.Type:
    return getattr(ov.Type, DTYPES[entry["data_type"].removeprefix("TYPE_")])


def _shapes(ports: list[Any]) -> dict[str, tuple[int, ...]]:
    return {
        port.get_any_name(): tuple(
            dim.get_length() if dim.is_static else FREE for dim in port.get_partial_shape()
        )
        for port in ports
    }


def _padded(array: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def _one_line(error: Exception) -> str:
    """OpenVINO's reason without the places in its source that it passed through."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return "openvino error: " + " ".join(kept or lines)
