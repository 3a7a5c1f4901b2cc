"""`configs/tensorrt.pbtxt`: the encoders as plans in Triton's TensorRT backend, on GPUs."""

from __future__ import annotations

from ctclip_client.contract import TEXT_ENCODER, VISION, Dimensions, Model, Tensor
from ctclip_export.repository.pbtxt import config, dynamic_batching, parameters

WARMUP_TOKENS = 16
"""Length of the warm-up's text: the shape that most requests have."""

_WARMUP_BATCHES = {VISION.name: (1, VISION.max_batch_size), TEXT_ENCODER.name: (1, 36)}


def tensorrt_config(model: Model, dimensions: Dimensions) -> str:
    """The same tensors as the default config; `model.plan` is made by `ctclip build-engines`."""
    return config(
        model, dimensions, 'backend: "tensorrt"',
        dynamic_batching(model),
        # One execution context for each model and GPU, which takes all the memory it will ever
        # need when the model loads: what does not fit fails then, and not under load.
        "instance_group [{ count: 1, kind: KIND_GPU }]",
        parameters({"execution_context_allocation_strategy": "STATIC"}),
        _cuda_graphs(model, dimensions),
        _warmup(model, dimensions),
    )  # fmt: skip


def _cuda_graphs(model: Model, dimensions: Dimensions) -> str:
    """One recorded launch for each batch size, where nothing but the batch varies."""
    shapes = {tensor.name: tensor.shape(dimensions.sizes()) for tensor in model.inputs}
    if any(-1 in shape for shape in shapes.values()):
        return ""
    inputs = "".join(
        f' input {{ key: "{name}", value {{ dim: [{_list(shape)}] }} }}'
        for name, shape in shapes.items()
    )
    specs = ",\n".join(
        f"      {{ batch_size: {batch}{inputs} }}" for batch in range(1, model.max_batch_size + 1)
    )
    return (
        f"optimization {{\n  cuda {{\n    graphs: true\n    graph_spec [\n{specs}\n    ]\n  }}\n}}"
    )


def _warmup(model: Model, dimensions: Dimensions) -> str:
    """A drawn phantom, a prompt of the bank: raw tensors that `ctclip build-engines` writes."""
    entries = ",\n".join(
        f'  {{\n    name: "batch of {batch}"\n    batch_size: {batch}\n'
        + "".join(_warmup_input(tensor, dimensions) for tensor in model.inputs)
        + "  }"
        for batch in _WARMUP_BATCHES[model.name]
    )
    return f"model_warmup [\n{entries}\n]"


def _warmup_input(tensor: Tensor, dimensions: Dimensions) -> str:
    shape = tuple(WARMUP_TOKENS if size < 0 else size for size in tensor.shape(dimensions.sizes()))
    return (
        f'    inputs {{ key: "{tensor.name}", value {{ data_type: TYPE_{tensor.dtype}, '
        f'dims: [{_list(shape)}], input_data_file: "{tensor.name}" }} }}\n'
    )


def _list(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
