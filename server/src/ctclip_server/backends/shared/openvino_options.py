"""The C++ OpenVINO backend's settings, read from a model config.

Documented in the README of triton-inference-server/openvino_backend. It reads the parameters that
it knows, refuses values that it does not, and never looks at other parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ctclip_server.backends.shared.signature import MismatchError

Precision = Literal["f32", "bf16"]
NO_BFLOAT16 = "OpenVINO finds no bf16 arithmetic on this CPU (AVX-512 BF16 or AMX)"
_THREADS = ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS")
_HINTS = ("latency", "throughput", "cumulative_throughput")
_SWITCHES = ("SKIP_OV_DYNAMIC_BATCHSIZE", "ENABLE_BATCH_PADDING", "RESHAPE_IO_LAYERS")
_KNOWN = (
    *_THREADS,
    *_SWITCHES,
    "HINT_BF16",
    "NUM_STREAMS",
    "PERFORMANCE_HINT",
    "CPU_EXTENSION_PATH",
)


@dataclass(frozen=True)
class OpenVINOSettings:
    """Settings of one compiled model.

    precision: of the arithmetic. float32 unless the config asks for bf16: left to itself, OpenVINO
        takes bf16 on every CPU that has it, and answers would depend on the machine.
    properties: OpenVINO's properties by name, the precision among them.
    pad_batches: requests smaller than `max_batch_size` are filled up rather than refused.
    reshape: the config's dims replace the model's.
    extension: a shared library with operators of its own.
    ignored: sentences about settings that have no effect here, for the log.
    """

    precision: Precision = "f32"
    properties: dict[str, str | int] = field(default_factory=dict)
    pad_batches: bool = False
    reshape: bool = False
    extension: str = ""
    ignored: tuple[str, ...] = ()


def read_openvino_settings(config: Mapping[str, Any]) -> OpenVINOSettings:
    """Read the settings of a model config (Triton's JSON).

    Raises:
        MismatchError: a value that the C++ backend refuses.
    """
    parameters = {
        name: str(entry.get("string_value", ""))
        for name, entry in config.get("parameters", {}).items()
    }
    precision: Precision = "bf16" if _asks_for_bf16(parameters.get("HINT_BF16", "")) else "f32"
    properties: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": precision}
    for name in _THREADS:
        if text := parameters.get(name):
            if not text.isdecimal():
                raise _unexpected(name, "to be a non-negative number", text)
            properties[name] = int(text)
    if text := parameters.get("NUM_STREAMS"):
        if text.lower() not in ("auto", "numa") and not text.isdecimal():
            raise _unexpected("NUM_STREAMS", "to be either AUTO/NUMA/<int_value>", text)
        properties["NUM_STREAMS"] = int(text) if text.isdecimal() else text.upper()
    if text := parameters.get("PERFORMANCE_HINT"):
        if text.lower() not in _HINTS:
            expected = "to be LATENCY/THROUGHPUT/CUMULATIVE_THROUGHPUT"
            raise _unexpected("PERFORMANCE_HINT", expected, text)
        properties["PERFORMANCE_HINT"] = text.upper()
    skip, pad, reshape = (parameters.get(name, "").lower() == "yes" for name in _SWITCHES)
    ignored = [
        f"{name}: unknown to the OpenVINO backend" for name in parameters if name not in _KNOWN
    ]
    if skip:
        ignored.append("SKIP_OV_DYNAMIC_BATCHSIZE: OpenVINO's CPU plugin joins no batches")
    return OpenVINOSettings(
        precision=precision,
        properties=properties,
        pad_batches=pad,
        reshape=reshape,
        extension=parameters.get("CPU_EXTENSION_PATH", ""),
        ignored=tuple(ignored),
    )


def _asks_for_bf16(text: str) -> bool:
    if text and text.lower() != "yes":
        raise _unexpected("HINT_BF16", "to be YES", text)
    return bool(text)


def _unexpected(name: str, expected: str, got: str) -> MismatchError:
    return MismatchError(f"expected the parameter '{name}' {expected}, got {got.lower()}")
