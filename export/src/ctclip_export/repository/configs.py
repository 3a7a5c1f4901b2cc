"""`config.pbtxt` of every model and ensemble, written from the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from ctclip_client.contract import (
    CHECK,
    MAX_TOKENS,
    SPACING_MM_RANGE,
    TEXT_ENCODER,
    TOKENIZER,
    VISION,
    Dimensions,
    Ensemble,
    Model,
    Step,
    Tensor,
)

VERSION = 1
"""Version folder of a fresh export; every model of a release has the same."""

_PARAMETERS: Mapping[str, Mapping[str, object]] = {
    CHECK.name: {
        "spacing_mm_above": SPACING_MM_RANGE[0],
        "spacing_mm_below": SPACING_MM_RANGE[1],
    },
    # The text encoder would refuse more texts, too, but without naming them.
    TOKENIZER.name: {"max_tokens": MAX_TOKENS, "max_texts": TEXT_ENCODER.max_batch_size},
}
"""Limits that the Python models enforce. They run where the client library is not installed."""

_QUEUES = {
    VISION.name: (16, 300),
    TEXT_ENCODER.name: (256, 60),
}
"""Queue length and seconds a request may wait; by default Triton has no limit on either, and a
server that falls behind would collect volumes until its memory is gone."""


_OPENVINO_PRECISION = (
    "# float32. The official container's backend has no parameter for it, and OpenVINO takes bf16",
    "# by itself where the CPU has it: start that container with OV_CPU_MAX_ISA=AVX512_CORE_VNNI.",
)


def model_config(model: Model, dimensions: Dimensions) -> str:
    """The default `config.pbtxt`: ONNX Runtime for graphs, on a GPU where there is one."""
    sizes = dimensions.sizes()
    parts = [
        f'name: "{model.name}"',
        f'backend: "{model.backend}"',
        f"max_batch_size: {model.max_batch_size}",
        _version_policy(VERSION),
        _tensors("input", model.inputs, sizes),
        _tensors("output", model.outputs, sizes),
        _parameters(_PARAMETERS.get(model.name, {})),
        _dynamic_batching(model),
        _instances(model),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def variant_configs(model: Model, dimensions: Dimensions) -> dict[str, str]:
    """`configs/NAME.pbtxt` of the model by NAME; empty where every engine uses the default."""
    if model not in (VISION, TEXT_ENCODER):
        return {}
    return {
        "openvino": _openvino_config(model, dimensions, {}),
        # A choice to be made knowingly: PROVENANCE names the precision of the release's files,
        # which are the same here.
        "openvino-bf16": _openvino_config(model, dimensions, {"HINT_BF16": "YES"}),
    }


def _openvino_config(model: Model, dimensions: Dimensions, extra: Mapping[str, object]) -> str:
    """The same `model.onnx` in Triton's OpenVINO backend, which runs on CPUs only.

    With `max_batch_size` > 0 that backend would fix the batch axis to it and compute every request
    at that size. So the batch axis is stated as a free one: the same tensors on the wire, but
    requests are not joined.
    """
    sizes = dimensions.sizes()
    inputs, outputs = (
        [Tensor(tensor.name, tensor.dtype, ("batch", *tensor.dims)) for tensor in tensors]
        for tensors in (model.inputs, model.outputs)
    )
    parts = [
        f'name: "{model.name}"',
        'backend: "openvino"',
        'default_model_filename: "model.onnx"',
        "max_batch_size: 0",
        _version_policy(VERSION),
        _tensors("input", inputs, sizes),
        _tensors("output", outputs, sizes),
        *(_OPENVINO_PRECISION if not extra else ()),
        _parameters({"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, **extra}),
        _dynamic_batching(model),
        "instance_group [{ count: 1, kind: KIND_CPU }]",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def ensemble_config(ensemble: Ensemble, dimensions: Dimensions, version: int = VERSION) -> str:
    """The ensemble's `config.pbtxt`; its steps are pinned to `version`, one release."""
    sizes = dimensions.sizes()
    # Triton refuses an ensemble with a tensor that nobody takes.
    taken = {tensor.name for tensor in ensemble.outputs}
    for step in ensemble.steps:
        taken |= {step.inputs.get(tensor.name, tensor.name) for tensor in step.model.inputs}
    steps = ",\n".join(_step(step, version, taken) for step in ensemble.steps)
    return "\n".join(
        [
            f'name: "{ensemble.name}"',
            'platform: "ensemble"',
            "max_batch_size: 0",
            _version_policy(version),
            _tensors("input", ensemble.inputs, sizes),
            _tensors("output", ensemble.outputs, sizes),
            "ensemble_scheduling {",
            "  step [",
            steps,
            "  ]",
            "}",
            "",
        ]
    )


def _version_policy(version: int) -> str:
    # Said outright: by default Triton takes the highest version folder, and a release that is
    # placed beside the one that serves would be loaded by the next start.
    return f"version_policy {{ specific {{ versions: [{version}] }} }}"


def _tensors(kind: str, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> str:
    entries = ",\n".join(
        f'  {{ name: "{tensor.name}", data_type: {_data_type(tensor)}, '
        f"dims: [{', '.join(map(str, tensor.shape(sizes)))}] }}"
        for tensor in tensors
    )
    return f"{kind} [\n{entries}\n]"


def _data_type(tensor: Tensor) -> str:
    return "TYPE_STRING" if tensor.dtype == "BYTES" else f"TYPE_{tensor.dtype}"


def _step(step: Step, version: int, taken: Set[str]) -> str:
    outputs = [
        tensor
        for tensor in step.model.outputs
        if step.outputs.get(tensor.name, tensor.name) in taken
    ]
    maps = [
        *_maps("input_map", step.model.inputs, step.inputs),
        *_maps("output_map", outputs, step.outputs),
    ]
    lines = [f'model_name: "{step.model.name}"', f"model_version: {version}", *maps]
    return "    {\n" + "\n".join(f"      {line}" for line in lines) + "\n    }"


def _maps(kind: str, tensors: Iterable[Tensor], renames: Mapping[str, str]) -> Iterable[str]:
    for tensor in tensors:
        outside = renames.get(tensor.name, tensor.name)
        yield f'{kind} {{ key: "{tensor.name}", value: "{outside}" }}'


def _parameters(values: Mapping[str, object]) -> str:
    return "\n".join(
        f'parameters {{ key: "{key}", value {{ string_value: "{value}" }} }}'
        for key, value in values.items()
    )


def _dynamic_batching(model: Model) -> str:
    if model.name not in _QUEUES:
        return ""
    length, seconds = _QUEUES[model.name]
    return (
        "dynamic_batching {\n"
        "  default_queue_policy {\n"
        f"    max_queue_size: {length}\n"
        f"    default_timeout_microseconds: {seconds * 1_000_000}\n"
        "    timeout_action: REJECT\n"
        "  }\n"
        "}"
    )


def _instances(model: Model) -> str:
    # One each: a second copy of the vision model would hold its weights and its 450 MB of code
    # similarities once more, without computing faster.
    kind = "KIND_CPU" if model.backend == "python" else "KIND_AUTO"
    return f"instance_group [{{ count: 1, kind: {kind} }}]"
