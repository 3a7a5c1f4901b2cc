"""A `config.pbtxt` against the contract: names, data types, axes, wiring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ctclip_client.contract import (
    CHECK,
    CLASSFINE_ENSEMBLES,
    CLASSFINE_MODELS,
    ENSEMBLES,
    MAX_TOKENS,
    MODELS,
    SPACING_MM_RANGE,
    TEXT_ENCODER,
    TOKENIZER,
    Dim,
    Ensemble,
    Model,
    Step,
    Tensor,
)

Part = Model | Ensemble

_OPTIONAL: tuple[Part, ...] = (*CLASSFINE_MODELS, *CLASSFINE_ENSEMBLES)
OPTIONAL = tuple(part.name for part in _OPTIONAL)
KNOWN: Mapping[str, Part] = {part.name: part for part in (*MODELS, *ENSEMBLES, *_OPTIONAL)}

_FIXED_BY_EXPORT = ("D", "H", "W", "T", "H'", "W'", "E", "F", "2F", "C")
_STRING = "TYPE_STRING"
_LIMITS: Mapping[str, Mapping[str, float]] = {
    CHECK.name: {"spacing_mm_above": SPACING_MM_RANGE[0], "spacing_mm_below": SPACING_MM_RANGE[1]},
    TOKENIZER.name: {"max_tokens": MAX_TOKENS, "max_texts": TEXT_ENCODER.max_batch_size},
}
"""What the Python models read from their configs' parameters: the only place that refuses by it."""


def release_sizes(release: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the symbolic axes that a release's record states (all but the embedding's, E; C only
    where there is a trained head)."""
    geometry = release["geometry"]
    depth, height, width = (int(size) for size in geometry["volume_shape"])
    slabs, rows, columns = (int(size) for size in geometry["token_shape"])
    count, classes = len(release["findings"]), len(release.get("classes", ()))
    return {
        "D": depth, "H": height, "W": width, "T": slabs, "H'": rows, "W'": columns,
        "F": count, "2F": 2 * count, **({"C": classes} if classes else {}),
    }  # fmt: skip


def embedding_size(configs: Mapping[str, Any]) -> dict[str, int]:
    """The embedding's size, E: what most configs say, so that one that was edited stands out."""
    found = Counter(
        int(entry.dims[tensor.dims.index("E")])
        for part in KNOWN.values()
        if (config := configs.get(part.name)) is not None
        for tensor in (*part.inputs, *part.outputs)
        for entry in (*config.input, *config.output)
        if entry.name == tensor.name and "E" in tensor.dims and len(entry.dims) == len(tensor.dims)
    )
    return {"E": found.most_common(1)[0][0]} if found else {}


def differences(
    config: Any, part: Part, sizes: Mapping[str, int], *, variant: bool = False
) -> list[str]:
    """Say where a parsed config leaves the contract; nothing if it does not.

    Args:
        config: Triton's ModelConfig message.
        part: what the contract says under that name.
        sizes: of the symbolic axes; one that is missing here may have any size.
        variant: also accept another backend, and a batching model that states its batch axis
            itself, for backends that cannot take Triton's (max_batch_size 0, a free axis in front).
    """
    found = []
    if config.name and config.name != part.name:
        found.append(f"name is '{config.name}', expected '{part.name}'")
    batch = part.max_batch_size if isinstance(part, Model) else 0
    leading: tuple[int, ...] = ()
    if variant and batch and config.max_batch_size == 0:
        batch, leading = 0, (-1,)
    found += _tensor_differences("input", config.input, part.inputs, sizes, leading)
    found += _tensor_differences("output", config.output, part.outputs, sizes, leading)
    if config.max_batch_size != batch:
        found.append(f"max_batch_size is {config.max_batch_size}, expected {batch}")
    found += _limit_differences(config, _LIMITS.get(part.name, {}))
    if isinstance(part, Ensemble):
        found += _wiring_differences(config, part.steps)
    elif not variant and config.backend != part.backend:
        found.append(f"backend is '{config.backend}', expected '{part.backend}'")
    return found


def _limit_differences(config: Any, limits: Mapping[str, float]) -> list[str]:
    found = []
    for name, expected in limits.items():
        if name not in config.parameters:
            found.append(f"parameter {name} is missing, expected {expected}")
            continue
        got = config.parameters[name].string_value
        with suppress(ValueError):
            if float(got) == expected:
                continue
        found.append(f"parameter {name} is '{got}', expected {expected}")
    return found


def pinned_versions(config: Any) -> dict[str, int]:
    """Model -> version, for each step of an ensemble; -1 is Triton's 'the latest'."""
    return {step.model_name: int(step.model_version) for step in config.ensemble_scheduling.step}


def _tensor_differences(
    kind: str,
    entries: Sequence[Any],
    tensors: Sequence[Tensor],
    sizes: Mapping[str, int],
    leading: tuple[int, ...],
) -> list[str]:
    from tritonclient.grpc import model_config_pb2

    names = [entry.name for entry in entries]
    expected = [tensor.name for tensor in tensors]
    if sorted(names) != sorted(expected):
        return [f"{kind}s are {names}, expected {expected}"]
    by_name = {entry.name: entry for entry in entries}
    found = []
    for tensor in tensors:
        entry = by_name[tensor.name]
        dtype = model_config_pb2.DataType.Name(entry.data_type)
        wanted = _STRING if tensor.dtype == "BYTES" else f"TYPE_{tensor.dtype}"
        if dtype != wanted:
            found.append(f"{kind} {tensor.name} is {dtype}, expected {wanted}")
        expected_dims = [*leading, *(_size(dim, sizes) for dim in tensor.dims)]
        if not _agree(entry.dims, expected_dims):
            shown = ", ".join(map(str, expected_dims))
            found.append(f"{kind} {tensor.name} has dims {list(entry.dims)}, expected [{shown}]")
    return found


def _size(dim: Dim, sizes: Mapping[str, int]) -> Dim:
    """The number that a config has to state, or the name of an axis that only export knows."""
    if isinstance(dim, int):
        return dim
    return sizes.get(dim, dim if dim in _FIXED_BY_EXPORT else -1)


def _agree(dims: Sequence[int], expected: Sequence[Dim]) -> bool:
    return len(dims) == len(expected) and all(
        got == dim if isinstance(dim, int) else got > 0
        for got, dim in zip(dims, expected, strict=True)
    )


def _wiring_differences(config: Any, steps: Sequence[Step]) -> list[str]:
    found = []
    if config.platform != "ensemble":
        found.append(f"platform is '{config.platform}', expected 'ensemble'")
    names = [step.model_name for step in config.ensemble_scheduling.step]
    expected = [step.model.name for step in steps]
    if sorted(names) != sorted(expected):
        return [*found, f"steps are {names}, expected {expected}"]
    by_name = {step.model_name: step for step in config.ensemble_scheduling.step}
    for step in steps:
        entry = by_name[step.model.name]
        inputs = {t.name: step.inputs.get(t.name, t.name) for t in step.model.inputs}
        if dict(entry.input_map) != inputs:
            found.append(f"step {step.model.name} takes {dict(entry.input_map)}, expected {inputs}")
        # An ensemble leaves out what nobody takes; what it does pass on must be named right.
        outputs = {t.name: step.outputs.get(t.name, t.name) for t in step.model.outputs}
        if not dict(entry.output_map).items() <= outputs.items():
            found.append(
                f"step {step.model.name} gives {dict(entry.output_map)}, expected {outputs}"
            )
    return found
