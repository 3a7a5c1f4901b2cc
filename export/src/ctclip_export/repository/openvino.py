"""`configs/openvino.pbtxt` and `configs/openvino-bf16.pbtxt`: the encoders in OpenVINO, on CPUs."""

from __future__ import annotations

from collections.abc import Mapping

from ctclip_client.contract import Dimensions, Model, Tensor
from ctclip_export.repository.pbtxt import (
    VERSION,
    dynamic_batching,
    parameters,
    tensors,
    version_policy,
)

_PRECISION = (
    "# float32. The official container's backend has no parameter for it, and OpenVINO takes bf16",
    "# by itself where the CPU has it: start that container with OV_CPU_MAX_ISA=AVX512_CORE_VNNI.",
)


def openvino_config(model: Model, dimensions: Dimensions, extra: Mapping[str, object]) -> str:
    """The same `model.onnx` in Triton's OpenVINO backend, which runs on CPUs only.

    With `max_batch_size` > 0 that backend would fix the batch axis to it and compute every request
    at that size. So the batch axis is stated as a free one: the same tensors on the wire, but
    requests are not joined.
    """
    sizes = dimensions.sizes()
    inputs, outputs = (
        [Tensor(tensor.name, tensor.dtype, ("batch", *tensor.dims)) for tensor in side]
        for side in (model.inputs, model.outputs)
    )
    parts = [
        f'name: "{model.name}"',
        'backend: "openvino"',
        'default_model_filename: "model.onnx"',
        "max_batch_size: 0",
        version_policy(VERSION),
        tensors("input", inputs, sizes),
        tensors("output", outputs, sizes),
        *(_PRECISION if not extra else ()),
        parameters({"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, **extra}),
        dynamic_batching(model),
        "instance_group [{ count: 1, kind: KIND_CPU }]",
    ]
    return "\n".join(part for part in parts if part) + "\n"
