"""Pieces of a `config.pbtxt` that several kinds of config share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctclip_client.contract import TEXT_ENCODER, VISION, Dimensions, Model, Tensor

VERSION = 1
"""Version folder of a fresh export; every model of a release has the same."""

_QUEUES = {
    VISION.name: (16, 300),
    TEXT_ENCODER.name: (256, 60),
}
"""Queue length and seconds a request may wait; by default Triton has no limit on either, and a
server that falls behind would collect volumes until its memory is gone."""


def config(model: Model, dimensions: Dimensions, backend: str, *rest: str) -> str:
    """A model's `config.pbtxt`. backend: the lines that name it; rest: what follows the tensors."""
    sizes = dimensions.sizes()
    parts = [
        f'name: "{model.name}"',
        backend,
        f"max_batch_size: {model.max_batch_size}",
        version_policy(VERSION),
        tensors("input", model.inputs, sizes),
        tensors("output", model.outputs, sizes),
        *rest,
    ]
    return "\n".join(part for part in parts if part) + "\n"


def version_policy(version: int) -> str:
    """The one version folder that is served."""
    # Said outright: by default Triton takes the highest version folder, and a release that is
    # placed beside the one that serves would be loaded by the next start.
    return f"version_policy {{ specific {{ versions: [{version}] }} }}"


def tensors(kind: str, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> str:
    """The `input` or `output` list; sizes fill in what an export knows."""
    entries = ",\n".join(
        f'  {{ name: "{tensor.name}", data_type: {_data_type(tensor)}, '
        f"dims: [{', '.join(map(str, tensor.shape(sizes)))}] }}"
        for tensor in tensors
    )
    return f"{kind} [\n{entries}\n]"


def _data_type(tensor: Tensor) -> str:
    return "TYPE_STRING" if tensor.dtype == "BYTES" else f"TYPE_{tensor.dtype}"


def parameters(values: Mapping[str, object]) -> str:
    """One entry for each value, as a string."""
    return "\n".join(
        f'parameters {{ key: "{key}", value {{ string_value: "{value}" }} }}'
        for key, value in values.items()
    )


def dynamic_batching(model: Model, *, together: bool = True) -> str:
    """A queue with a limit and a deadline, for the models that compute long.

    together: whether requests that wait are joined into one batch.
    """
    if model.name not in _QUEUES:
        return ""
    length, seconds = _QUEUES[model.name]
    return (
        "dynamic_batching {\n"
        f"{'' if together else _ALONE}"
        "  default_queue_policy {\n"
        f"    max_queue_size: {length}\n"
        f"    default_timeout_microseconds: {seconds * 1_000_000}\n"
        "    timeout_action: REJECT\n"
        "  }\n"
        "}"
    )


_ALONE = """\
  # One at a time: on CPUs a batch of scans takes as long as its scans do, and all their memory.
  preferred_batch_size: [1]
"""
