"""What the drop-in backends implement of a config; everything else that a backend has to do, they
refuse.

Triton's C++ backends know more of it, and ignore what they do not know. Here a parameter or a field
that would have no effect is an error, so that nobody measures or serves something else than they
asked for. What is not named here Triton sees to by itself: versions, queues and batches, instances,
ensembles, warm-up, tags of metrics, labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
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

_CUDA: Mapping[str, Kind] = {
    "cudnn_conv_algo_search": _words({"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}),
    "gpu_mem_limit": _COUNT,
    "arena_extend_strategy": _words({"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}),
    "do_copy_in_default_stream": _words({"0": "0", "1": "1"}),
}
"""Options of CUDA that the C++ backend takes from a model's parameters alone: those that are not
there it sets to their defaults, whatever the accelerator says (onnxruntime.cc, `LoadModel`)."""
ONNXRUNTIME: Mapping[str, Kind] = {
    "intra_op_thread_count": _COUNT,
    "inter_op_thread_count": _COUNT,
    "enable_mem_arena": _SWITCH,
    "memory.enable_memory_arena_shrinkage": _TEXT,
    **_CUDA,  # without effect on the CPU, so that one config may serve both
}
OPENVINO: Mapping[str, Kind] = {
    "HINT_BF16": _words({"YES": True}),
    "NUM_STREAMS": _COUNT,
    "PERFORMANCE_HINT": _words({name: name for name in ("LATENCY", "THROUGHPUT")}),
}

GRAPH_LEVELS: Mapping[int, str] = {0: "all", -1: "basic", 1: "extended", 2: "none"}
"""Values of `optimization.graph.level`, and what ONNX Runtime calls them."""
_ACCELERATOR = "cuda"
_ACCELERATORS = "optimization.execution_accelerators.gpu_execution_accelerator"
_WITHOUT_EFFECT: Mapping[str, object] = {
    "sequence_batching": None,
    "batch_input": [],
    "batch_output": [],
    "model_operations.op_library_filename": [],
    "model_transaction_policy.decoupled": False,
    "response_cache.enable": False,  # the embedded server has no cache
    "cc_model_filenames": {},
    "instance_group.secondary_devices": [],
    "instance_group.profile": [],
    "instance_group.rate_limiter.resources": [],  # it starts Triton without a rate limiter
    "instance_group.rate_limiter.priority": 0,
    "optimization.priority": "PRIORITY_DEFAULT",
    "optimization.cuda.graphs": False,
    "optimization.cuda.graph_spec": [],
    "optimization.cuda.busy_wait_events": False,
    "optimization.cuda.output_copy_stream": False,
    "optimization.input_pinned_memory.enable": True,
    "optimization.output_pinned_memory.enable": True,
    "optimization.gather_kernel_buffer_threshold": 0,
    "optimization.eager_batching": False,
    "optimization.execution_accelerators.cpu_execution_accelerator": [],
}
"""Fields that no drop-in implements, with the only value they may have."""
WITHOUT_EFFECT_IN_OPENVINO: Mapping[str, object] = {
    "optimization.graph.level": 0,
    _ACCELERATORS: [],
}
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
    level = next((int(level) for level in _values(config, "optimization.graph.level")), 0)
    if level not in GRAPH_LEVELS:
        raise ConfigError(
            f"optimization.graph.level: got {level}, expected one of "
            f"{', '.join(map(str, GRAPH_LEVELS))}"
        )
    return GRAPH_LEVELS[level]


def check_fields(config: Mapping[str, Any], further: Mapping[str, object] | None = None) -> None:
    """Refuse fields of a config (Triton's JSON) that these backends do not implement.

    Args:
        config: the model config.
        further: fields that this backend does not implement, with the value they may have.

    Raises:
        ConfigError: with the first of them.
    """
    for path, neutral in {**_WITHOUT_EFFECT, **(further or {})}.items():
        for value in _values(config, path):
            if value != neutral:
                raise ConfigError(
                    f"{path}: got {json.dumps(value)}, expected "
                    f"{'none' if neutral in (None, [], {}) else json.dumps(neutral)}: not "
                    "supported by the embedded server"
                )
    for accelerators in _values(config, _ACCELERATORS):
        for entry in accelerators:
            if entry["name"] != _ACCELERATOR:
                raise ConfigError(
                    f"{_ACCELERATORS}: got '{entry['name']}', expected '{_ACCELERATOR}': the "
                    "embedded server supports no other"
                )
            stated = entry.get("parameters", {})
            for name in filter(stated.__contains__, _CUDA):
                raise ConfigError(
                    f"{_ACCELERATORS}: {name}: got '{stated[name]}', expected none: it has no "
                    f"effect there, the backend overwrites it. Put {name} under parameters"
                )


def cuda_options(
    config: Mapping[str, Any], parameters: Mapping[str, Any], device: str
) -> dict[str, str]:
    """Options of ONNX Runtime's CUDA provider: those of the config's accelerator `cuda`.

    As in the C++ backend, the model's parameters alone decide on convolution search (exhaustive
    without them), memory and stream. Unlike there, float32 stays float32 (no TF32) unless the
    accelerator asks for it.

    Args:
        config: the model config (Triton's JSON), of which `check_fields` has nothing to say.
        parameters: of `read_parameters`.
        device: the GPU's number.
    """
    options = {"use_tf32": "0"}
    for accelerators in _values(config, _ACCELERATORS):
        for entry in accelerators:
            options |= {name: str(value) for name, value in entry.get("parameters", {}).items()}
    options["cudnn_conv_algo_search"] = "EXHAUSTIVE"
    options |= {name: str(parameters[name]) for name in _CUDA if name in parameters}
    return options | {"device_id": device}


def default_threads() -> int | None:
    """Threads for one operator where the config names none.

    None, ONNX Runtime's own choice (the physical cores), unless this process may use fewer.
    """
    allowed = len(os.sched_getaffinity(0))
    return allowed if allowed < (os.cpu_count() or allowed) else None


def _values(config: Any, path: str) -> Iterator[Any]:
    """What a config states at a path, in every element of the lists on the way."""
    name, _, rest = path.partition(".")
    for part in config if isinstance(config, list) else [config]:
        if name in part:
            yield from _values(part[name], rest) if rest else [part[name]]
