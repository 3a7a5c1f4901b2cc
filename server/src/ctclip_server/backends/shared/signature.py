"""Whether a model's config and its graph agree, by the rules of Triton's C++ backends.

Both want every input stated, with its data type; a free axis of the graph takes anything, a fixed
one must be stated. ONNX Runtime's wants a free axis of an output stated as a free one, too, and
with `max_batch_size` > 0 a free first axis; OpenVINO's is used without batches only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctclip_server.backends.shared.options import ConfigError

FREE = -1
_DTYPES = {
    "bool": "BOOL", "boolean": "BOOL", "uint8": "UINT8", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "float16": "FP16", "float": "FP32", "double": "FP64",
    "u8": "UINT8", "i8": "INT8", "i16": "INT16", "i32": "INT32", "i64": "INT64", "f16": "FP16",
    "f32": "FP32", "f64": "FP64",
}  # fmt: skip
"""ONNX Runtime's and OpenVINO's names of data types -> Triton's."""
_REFUSED = (
    "optional", "allow_ragged_batch", "reshape", "is_shape_tensor", "is_non_linear_format_io",
    "format",
)  # fmt: skip
Kind = Literal["input", "output"]


@dataclass(frozen=True)
class GraphTensor:
    """One input or output of a graph. dtype: as its runtime calls it. dims: -1 for free axes."""

    dtype: str
    dims: tuple[int, ...]


def model_path(config: Mapping[str, Any], folder: Path, default: str) -> Path:
    """The file that a config executes. Raises: ConfigError if it is not there."""
    path = folder / (config.get("default_model_filename") or default)
    if not path.is_file():
        raise ConfigError(f"unable to find '{path}'")
    return path


def check_tensors(
    config: Mapping[str, Any],
    kind: Kind,
    tensors: Mapping[str, GraphTensor],
    *,
    exact: bool = False,
) -> None:
    """Check the config's inputs or outputs against the graph's; outputs may be left out.

    Args:
        config: the model config as Triton's JSON.
        kind: which of its sections.
        tensors: the graph's, by name.
        exact: free axes of the graph have to be stated as free ones.

    Raises:
        ConfigError: with the first contradiction.
    """
    entries = config[kind]
    if kind == "input" and len(entries) != len(tensors):
        missing = sorted(set(tensors) - {entry["name"] for entry in entries})
        raise ConfigError(
            f"configuration expects {len(entries)} inputs, model provides {len(tensors)}"
            + (f"; not in the configuration: {', '.join(missing)}" if missing else "")
        )
    if not entries:
        raise ConfigError(
            f"configuration states no {kind}s, model provides {', '.join(sorted(tensors))}"
        )
    for entry in entries:
        name = entry["name"]
        if name not in tensors:
            raise ConfigError(
                f"unexpected inference {kind} '{name}', allowed {kind}s are: "
                + ", ".join(sorted(tensors))
            )
        for field in _REFUSED:
            if entry.get(field) not in (None, False, "FORMAT_NONE"):
                raise ConfigError(f"{kind} '{name}': {field} is not supported by this server")
        stated = str(entry["data_type"]).removeprefix("TYPE_")
        provided = _DTYPES.get(tensors[name].dtype, tensors[name].dtype)
        if stated != provided:
            raise ConfigError(
                f"configuration expects datatype {stated} for {kind} '{name}', model provides "
                f"{provided}"
            )
        if provided not in _DTYPES.values():
            raise ConfigError(f"unsupported datatype {provided} for {kind} '{name}'")
        _check_dims(config, entry, tensors[name].dims, exact=exact)


def _check_dims(
    config: Mapping[str, Any], entry: Mapping[str, Any], own: tuple[int, ...], *, exact: bool
) -> None:
    batched = config.get("max_batch_size", 0) > 0
    stated = tuple(int(dim) for dim in entry["dims"])
    if batched:
        stated = (FREE, *stated)
        if own[:1] != (FREE,):
            raise ConfigError(
                f"tensor '{entry['name']}': for the model to support batching the shape should "
                "have at least 1 dimension and the first dimension must be -1; but shape expected "
                f"by the model is {_text(own)}"
            )
    agree = len(stated) == len(own) and all(
        mine == theirs or (mine == FREE and not exact)
        for mine, theirs in zip(own, stated, strict=True)
    )
    if not agree:
        how = " (with the batch dimension that max_batch_size > 0 adds)" if batched else ""
        raise ConfigError(
            f"tensor '{entry['name']}': the model expects {len(own)} dimensions (shape "
            f"{_text(own)}) but the model configuration specifies {len(stated)} dimensions "
            f"(shape {_text(stated)}){how}"
        )


def _text(dims: Sequence[int]) -> str:
    return "[" + ",".join(str(dim) for dim in dims) + "]"
