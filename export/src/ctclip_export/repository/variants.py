"""`configs/NAME.pbtxt`: the same models in other engines, chosen when Triton starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ctclip_client.contract import TEXT_ENCODER, VISION, Dimensions, Model, Tensor
from ctclip_export.repository.onnxruntime import gpu_configs
from ctclip_export.repository.pbtxt import config, dynamic_batching, parameters
from ctclip_export.repository.tensorrt import tensorrt_config

_PRECISION = """\
# float32. The official container's backend has no parameter for it, and OpenVINO takes bf16
# by itself where the CPU has it: start that container with OV_CPU_MAX_ISA=AVX512_CORE_VNNI."""


def variant_configs(model: Model, dimensions: Dimensions) -> dict[str, str]:
    """Configs of the model by NAME; empty where every engine uses the default."""
    if model not in (VISION, TEXT_ENCODER):
        return gpu_configs(model, dimensions)
    return gpu_configs(model, dimensions) | {
        "openvino": _openvino(model, dimensions),
        # A choice to be made knowingly: PROVENANCE names the precision of the release's files,
        # which are the same here.
        "openvino-bf16": _openvino(model, dimensions, HINT_BF16="YES"),
        "tensorrt": tensorrt_config(model, dimensions),
    }


def _openvino(model: Model, dimensions: Dimensions, **extra: str) -> str:
    """The same `model.onnx` in Triton's OpenVINO backend, which runs on CPUs only.

    With `max_batch_size` > 0 that backend would fix the batch axis to it and compute every request
    at that size. So the batch axis is stated as a free one: the same tensors on the wire, but
    requests are not joined.
    """

    def batched(side: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(replace(tensor, dims=("batch", *tensor.dims)) for tensor in side)

    whole = replace(
        model, max_batch_size=0, inputs=batched(model.inputs), outputs=batched(model.outputs)
    )
    return config(
        whole, dimensions, 'backend: "openvino"\ndefault_model_filename: "model.onnx"',
        "" if extra else _PRECISION,
        parameters({"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, **extra}),
        dynamic_batching(model),
        "instance_group [{ count: 1, kind: KIND_CPU }]",
    )  # fmt: skip
