"""Whether a model's config and its graph agree, by the rules of Triton's C++ ONNX Runtime backend.

Inputs: a free axis of the graph takes anything, a fixed one must be stated. Outputs: every axis
must be stated exactly. With `max_batch_size` > 0 the graph's first axis must be free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FREE = -1


@dataclass(frozen=True)
class GraphTensor:
    """One input or output of a graph: Triton data type (`FP32`, `STRING`, …; empty if Triton has
    none for it), and axes with -1 for free ones; a scalar has none."""

    dtype: str
    source_dtype: str
    dims: tuple[int, ...]


class MismatchError(Exception):
    """Config and graph contradict each other; the message is what the C++ backend would say."""


_DTYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "STRING",
}


def graph_tensors(arguments: Sequence[Any]) -> dict[str, GraphTensor]:
    """Describe ONNX Runtime's NodeArgs (`.name`, `.type`, `.shape`) by name.

    Raises:
        MismatchError: one of them is not a tensor (a sequence, a map).
    """
    tensors: dict[str, GraphTensor] = {}
    for argument in arguments:
        if not argument.type.startswith("tensor("):
            raise MismatchError(
                f"Unsupported ONNX Type '{argument.type}' for I/O '{argument.name}', expected a "
                "tensor"
            )
        dims = tuple(dim if isinstance(dim, int) and dim >= 0 else FREE for dim in argument.shape)
        tensors[argument.name] = GraphTensor(_DTYPES.get(argument.type, ""), argument.type, dims)
    return tensors


def check_inputs(
    config: Mapping[str, Any],
    inputs: Mapping[str, GraphTensor],
    overridable: Mapping[str, GraphTensor],
) -> None:
    """Check the config's inputs against the graph's.

    Args:
        config: the model config as Triton's JSON.
        inputs: the graph's inputs.
        overridable: initializers that a request may replace (optional inputs).

    Raises:
        MismatchError: with the first contradiction.
    """
    model = config["name"]
    required = [entry for entry in config["input"] if not entry.get("optional")]
    if len(required) != len(inputs):
        missing = sorted(set(inputs) - {entry["name"] for entry in required})
        raise MismatchError(
            f"unable to load model '{model}', configuration expects {len(required)} inputs, "
            f"model provides {len(inputs)}"
            + (f"; not in the configuration: {', '.join(missing)}" if missing else "")
        )
    known = {**inputs, **overridable}
    for entry in config["input"]:
        name = entry["name"]
        if entry.get("optional") and config.get("max_batch_size", 0) != 0:
            raise MismatchError(
                f"unable to load model '{model}', optional input '{name}' is not supported for "
                "models that support batching"
            )
        if entry.get("allow_ragged_batch"):
            raise MismatchError(
                f"unable to load model '{model}', ragged input '{name}' is not supported by this "
                "drop-in backend"
            )
        tensor = _find("input", entry, known, model)
        _check_dims(config, entry, tensor, exact=False)


def check_outputs(config: Mapping[str, Any], outputs: Mapping[str, GraphTensor]) -> None:
    """Check the config's outputs against the graph's; outputs it leaves out are not served.

    Raises:
        MismatchError: with the first contradiction.
    """
    if not config["output"]:
        raise MismatchError(
            f"unable to load model '{config['name']}', configuration states no outputs, model "
            f"provides {', '.join(sorted(outputs))}"
        )
    for entry in config["output"]:
        tensor = _find("output", entry, outputs, config["name"])
        _check_dims(config, entry, tensor, exact=True)


def check_unsupported(config: Mapping[str, Any]) -> None:
    """Refuse what the C++ backend serves and this drop-in does not, rather than serve it wrongly.

    Raises:
        MismatchError: naming the field of the config.
    """
    for field in ("sequence_batching", "batch_input", "batch_output"):
        if config.get(field):
            raise MismatchError(
                f"unable to load model '{config['name']}', {field} is not supported by this "
                "drop-in backend"
            )


def configured_dims(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """Axes that the graph will see, without the batch axis: `reshape` where there is one."""
    stated = entry["reshape"].get("shape", []) if "reshape" in entry else entry["dims"]
    return tuple(int(dim) for dim in stated)


def _find(
    kind: str, entry: Mapping[str, Any], known: Mapping[str, GraphTensor], model: str
) -> GraphTensor:
    name, dtype = entry["name"], str(entry["data_type"]).removeprefix("TYPE_")
    tensor = known.get(name)
    if tensor is None:
        raise MismatchError(
            f"unexpected inference {kind} '{name}' for model '{model}', allowed {kind}s are: "
            + ", ".join(sorted(known))
        )
    if dtype not in _DTYPES.values():
        raise MismatchError(
            f"unsupported datatype TYPE_{dtype} for {kind} '{name}' for model '{model}'"
        )
    if dtype != tensor.dtype:
        provided = f"TYPE_{tensor.dtype}" if tensor.dtype else tensor.source_dtype
        raise MismatchError(
            f"unable to load model '{model}', configuration expects datatype TYPE_{dtype} for "
            f"{kind} '{name}', model provides {provided}"
        )
    return tensor


def _check_dims(
    config: Mapping[str, Any], entry: Mapping[str, Any], tensor: GraphTensor, *, exact: bool
) -> None:
    model, name = config["name"], entry["name"]
    dims = configured_dims(entry)
    if not tensor.dims:
        if any(dim != 1 for dim in dims):
            raise MismatchError(
                f"unable to load model '{model}', scalar tensor '{name}', should only provide 1 "
                f"in the model configuration when the model doesn't support batching. Model "
                f"configuration provided: {_text(dims)}."
            )
        return
    batched = config.get("max_batch_size", 0) > 0
    if batched and tensor.dims[0] != FREE:
        raise MismatchError(
            f"model '{model}', tensor '{name}': for the model to support batching the shape "
            "should have at least 1 dimension and the first dimension must be -1; but shape "
            f"expected by the model is {_text(tensor.dims)}"
        )
    stated = (FREE, *dims) if batched else dims
    agree = len(stated) == len(tensor.dims) and all(
        own == theirs or (own == FREE and not exact)
        for own, theirs in zip(tensor.dims, stated, strict=True)
    )
    if not agree:
        how = " (with the batch dimension that max_batch_size > 0 adds)" if batched else ""
        raise MismatchError(
            f"model '{model}', tensor '{name}': the model expects {len(tensor.dims)} dimensions "
            f"(shape {_text(tensor.dims)}) but the model configuration specifies {len(stated)} "
            f"dimensions (shape {_text(stated)}){how}"
        )


def _text(dims: Sequence[int]) -> str:
    return "[" + ",".join(str(dim) for dim in dims) + "]"
