"""Whether a model's config and its graph agree, by the rules of Triton's C++ OpenVINO backend.

They differ from the ONNX Runtime backend's: a free axis of the graph takes anything, on outputs
too; a data type of the config that is not the graph's is converted, not refused; and with
`max_batch_size` > 0 the first axis becomes exactly that, so it is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ctclip_server.backends.shared.signature import FREE, MismatchError, configured_dims

DTYPES: Mapping[str, str] = {
    "BOOL": "boolean",
    "UINT8": "u8",
    "UINT16": "u16",
    "UINT32": "u32",
    "UINT64": "u64",
    "INT8": "i8",
    "INT16": "i16",
    "INT32": "i32",
    "INT64": "i64",
    "FP16": "f16",
    "FP32": "f32",
}
"""Triton data types that the backend takes -> OpenVINO's names; FP64, BF16 and text are not."""
Kind = Literal["input", "output"]


def check_tensors(
    config: Mapping[str, Any],
    kind: Kind,
    shapes: Mapping[str, Sequence[int]],
    *,
    any_dims: bool = False,
) -> None:
    """Check the config's inputs or outputs against the graph's.

    Args:
        config: the model config as Triton's JSON.
        kind: which of its sections.
        shapes: name -> axes of the graph's tensors, -1 for free ones.
        any_dims: the graph will be reshaped to the config, so axes need not agree.

    Raises:
        MismatchError: with the first contradiction.
    """
    model, entries = config["name"], config[kind]
    if kind == "input" and len(entries) != len(shapes):
        raise MismatchError(
            f"unable to load model '{model}', configuration expects {len(entries)} inputs, model "
            f"provides {len(shapes)}"
        )
    if not entries:
        raise MismatchError(f"unable to load model '{model}', configuration states no {kind}s")
    for entry in entries:
        name, dtype = entry["name"], str(entry["data_type"]).removeprefix("TYPE_")
        if name not in shapes:
            raise MismatchError(
                f"unexpected inference {kind} '{name}' for model '{model}', allowed {kind}s are: "
                + ", ".join(sorted(shapes))
            )
        if dtype not in DTYPES:
            raise MismatchError(
                f"unsupported datatype TYPE_{dtype} for {kind} '{name}' for model '{model}'"
            )
        if entry.get("allow_ragged_batch"):
            raise MismatchError(
                f"unable to load model '{model}', ragged input '{name}' is not supported by this "
                "drop-in backend"
            )
        if not any_dims:
            _check_dims(config, entry, tuple(shapes[name]))


def _check_dims(config: Mapping[str, Any], entry: Mapping[str, Any], own: tuple[int, ...]) -> None:
    dims = configured_dims(entry)
    batch = config.get("max_batch_size", 0)
    if batch and not own:
        raise MismatchError(
            f"model '{config['name']}', tensor '{entry['name']}': for the model to support "
            "batching the shape should have at least 1 dimension"
        )
    stated = (batch, *dims) if batch else dims
    # Only where there is a batch may an input leave open what the graph fixes.
    agree = len(own) == len(stated) and all(
        theirs in (FREE, mine) or (batch and mine == FREE)
        for theirs, mine in zip(own[bool(batch) :], dims, strict=True)
    )
    if not agree:
        raise MismatchError(
            f"model '{config['name']}', tensor '{entry['name']}': the model expects {len(own)} "
            f"dimensions (shape {_text(own)}) but the model configuration specifies {len(stated)} "
            f"dimensions (shape {_text(stated)})"
            + (" (an initial batch dimension because max_batch_size > 0)" if batch else "")
        )


def _text(dims: Sequence[int]) -> str:
    return "[" + ",".join(str(dim) for dim in dims) + "]"
