"""`config.pbtxt` of every model and ensemble, written from the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from ctclip_client.contract import (
    CHECK,
    MAX_TOKENS,
    SPACING_MM_RANGE,
    TEXT_ENCODER,
    TOKENIZER,
    Dimensions,
    Ensemble,
    Model,
    Step,
    Tensor,
)
from ctclip_export.repository.onnxruntime import onnxruntime_config
from ctclip_export.repository.pbtxt import (
    VERSION,
    config,
    parameters,
    tensors,
    version_policy,
)

_PARAMETERS: Mapping[str, Mapping[str, object]] = {
    CHECK.name: {
        "spacing_mm_above": SPACING_MM_RANGE[0],
        "spacing_mm_below": SPACING_MM_RANGE[1],
    },
    # The text encoder would refuse more texts, too, but without naming them.
    TOKENIZER.name: {"max_tokens": MAX_TOKENS, "max_texts": TEXT_ENCODER.max_batch_size},
}
"""Limits that the Python models enforce. They run where the client library is not installed."""


def model_config(model: Model, dimensions: Dimensions) -> str:
    """The default `config.pbtxt`: ONNX Runtime for graphs, on a GPU where there is one."""
    if model.backend == "onnxruntime":
        return onnxruntime_config(model, dimensions)
    return config(
        model, dimensions, f'backend: "{model.backend}"',
        parameters(_PARAMETERS.get(model.name, {})),
        "instance_group [{ count: 1, kind: KIND_CPU }]",
    )  # fmt: skip


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
            version_policy(version),
            tensors("input", ensemble.inputs, sizes),
            tensors("output", ensemble.outputs, sizes),
            "ensemble_scheduling {",
            "  step [",
            steps,
            "  ]",
            "}",
            "",
        ]
    )


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
