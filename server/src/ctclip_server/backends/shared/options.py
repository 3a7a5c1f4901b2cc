"""The parameters of a config that the drop-in backends implement; every other one is refused.

Triton's C++ backends know more of them, and ignore what they do not know. Here a parameter that
would have no effect is an error, so that nobody measures or serves something else than they asked
for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class ConfigError(Exception):
    """A model's config and its file, or this backend, do not go together."""


@dataclass(frozen=True)
class Kind:
    """What a parameter may hold: in words, and as a function that raises ValueError or KeyError."""

    words: str
    read: Callable[[str], Any]


def _words(values: Mapping[str, Any]) -> Kind:
    return Kind(" or ".join(values), values.__getitem__)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError
    return int(text)


_COUNT = Kind("a whole number", _count)
_SWITCH = _words({"0": False, "1": True, "false": False, "true": True})
_TEXT = Kind("text", str)

ONNXRUNTIME: Mapping[str, Kind] = {
    "intra_op_thread_count": _COUNT,
    "inter_op_thread_count": _COUNT,
    "enable_mem_arena": _SWITCH,
    "memory.enable_memory_arena_shrinkage": _TEXT,
    # Of CUDA: without effect on the CPU, which is where this runs.
    "cudnn_conv_algo_search": _words({"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}),
}
OPENVINO: Mapping[str, Kind] = {
    "HINT_BF16": _words({"YES": True}),
    "NUM_STREAMS": _COUNT,
    "PERFORMANCE_HINT": _words({name: name for name in ("LATENCY", "THROUGHPUT")}),
}

GRAPH_LEVELS: Mapping[int, str] = {0: "all", -1: "basic", 1: "extended", 2: "none"}
"""Values of `optimization.graph.level`, and what ONNX Runtime calls them."""
_ACCELERATOR = "cuda"
_REFUSED = (
    "sequence_batching", "batch_input", "batch_output", "model_operations.op_library_filename",
    "optimization.execution_accelerators.cpu_execution_accelerator",
)  # fmt: skip
NO_BFLOAT16 = "OpenVINO finds no bf16 arithmetic on this CPU (AVX-512 BF16 or AMX)"


def read_parameters(config: Mapping[str, Any], known: Mapping[str, Kind]) -> dict[str, Any]:
    """Read a config's `parameters` (Triton's JSON): those it states, by name.

    Raises:
        ConfigError: one that is not `known`, or its value.
    """
    values = {}
    for name, entry in config.get("parameters", {}).items():
        text = str(entry.get("string_value", ""))
        if name not in known:
            raise ConfigError(
                f"parameter {name}: got {text!r}, expected none: the embedded server's "
                f"{config['backend']} backend knows {', '.join(known)}"
            )
        try:
            values[name] = known[name].read(text)
        except (ValueError, KeyError):
            words = known[name].words
            raise ConfigError(f"parameter {name}: got {text!r}, expected {words}") from None
    return values


def graph_level(config: Mapping[str, Any]) -> str:
    """ONNX Runtime's graph optimisation level, one of `GRAPH_LEVELS`. Raises: ConfigError."""
    level = int(_field(config, "optimization.graph.level") or 0)
    if level not in GRAPH_LEVELS:
        raise ConfigError(
            f"optimization.graph.level: got {level}, expected one of "
            f"{', '.join(map(str, GRAPH_LEVELS))}"
        )
    return GRAPH_LEVELS[level]


def check_fields(config: Mapping[str, Any]) -> None:
    """Refuse fields of a config that these backends do not implement. Raises: ConfigError."""
    for path in _REFUSED:
        if _field(config, path):
            raise ConfigError(f"{path}: not supported by the embedded server")
    where = "optimization.execution_accelerators.gpu_execution_accelerator"
    for entry in _field(config, where) or ():
        if entry["name"] != _ACCELERATOR:
            raise ConfigError(
                f"{where}: got '{entry['name']}', expected '{_ACCELERATOR}': the embedded server "
                "supports no other"
            )


def default_threads() -> int | None:
    """Threads for one operator where the config names none.

    None, ONNX Runtime's own choice (the physical cores), unless this process may use fewer.
    """
    allowed = len(os.sched_getaffinity(0))
    return allowed if allowed < (os.cpu_count() or allowed) else None


def _field(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config.get(name, {})
    return config
