"""The C++ ONNX Runtime backend's settings, read from a model config.

Documented in the README of triton-inference-server/onnxruntime_backend.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ctclip_server.backends.shared.signature import MismatchError

GraphLevel = Literal["all", "extended", "basic", "none"]
# Values of optimization.graph.level; any other number leaves everything on.
_LEVELS: dict[int, GraphLevel] = {-1: "basic", 1: "extended", 2: "none"}
_GPU_PARAMETERS = (
    "cudnn_conv_algo_search",
    "gpu_mem_limit",
    "arena_extend_strategy",
    "do_copy_in_default_stream",
)
_SESSION_ENTRY = "session.use_device_allocator_for_initializers"
_RUN_ENTRY = "memory.enable_memory_arena_shrinkage"


@dataclass(frozen=True)
class Settings:
    """Settings of one session; None leaves ONNX Runtime's default.

    ignored: sentences about settings that have no effect here, for the log.
    """

    intra_op_threads: int | None = None
    inter_op_threads: int | None = None
    parallel: bool = False
    level: GraphLevel = "all"
    memory_arena: bool | None = None
    memory_pattern: bool | None = None
    session_entries: dict[str, str] = field(default_factory=dict)
    run_entries: dict[str, str] = field(default_factory=dict)
    custom_operators: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def read_settings(config: Mapping[str, Any], instance_kind: str) -> Settings:
    """Read the settings of a model config (Triton's JSON) for an instance on `CPU` or `GPU`.

    Raises:
        MismatchError: a value that the C++ backend refuses.
    """
    parameters = {
        name: str(entry.get("string_value", ""))
        for name, entry in config.get("parameters", {}).items()
    }
    optimization = config.get("optimization", {})
    execution_mode = _integer(parameters, "execution_mode")
    if execution_mode not in (None, 0, 1):
        raise MismatchError(
            "Invalid configuration value provided. Expected values for execution_mode are 0 or 1 "
            f"but got {execution_mode}."
        )
    accelerators = optimization.get("execution_accelerators", {})
    ignored = _ignored_parameters(parameters, instance_kind)
    ignored += _check_accelerators(accelerators, instance_kind)
    entries = {_SESSION_ENTRY: parameters[_SESSION_ENTRY]} if _SESSION_ENTRY in parameters else {}
    shrinkage = {_RUN_ENTRY: parameters[_RUN_ENTRY]} if _RUN_ENTRY in parameters else {}
    return Settings(
        intra_op_threads=_positive(_integer(parameters, "intra_op_thread_count")),
        inter_op_threads=_positive(_integer(parameters, "inter_op_thread_count")),
        parallel=execution_mode == 1,
        level=_LEVELS.get(int(optimization.get("graph", {}).get("level", 0)), "all"),
        memory_arena=_boolean(parameters, "enable_mem_arena"),
        memory_pattern=_boolean(parameters, "enable_mem_pattern"),
        session_entries=entries,
        run_entries=shrinkage,
        custom_operators=tuple(config.get("model_operations", {}).get("op_library_filename", ())),
        ignored=tuple(ignored),
    )


def default_threads() -> int | None:
    """Threads for one operator where the config names none.

    None, ONNX Runtime's own choice (the physical cores), unless this process may use fewer.
    """
    allowed = len(os.sched_getaffinity(0))
    return allowed if allowed < (os.cpu_count() or allowed) else None


def _ignored_parameters(parameters: Mapping[str, str], instance_kind: str) -> list[str]:
    ignored = []
    for name in parameters:
        if name == "share_session_between_instances":
            ignored.append(f"{name}: every instance is a process with a session of its own here")
        elif name in _GPU_PARAMETERS and instance_kind != "GPU":
            ignored.append(f"{name}: it is about GPUs, this instance runs on the CPU")
        elif name in _GPU_PARAMETERS:
            ignored.append(f"{name}: not passed on to ONNX Runtime's CUDA provider here")
        elif name not in _KNOWN:
            ignored.append(f"{name}: unknown to the ONNX Runtime backend")
    return ignored


_KNOWN = (
    "intra_op_thread_count",
    "inter_op_thread_count",
    "execution_mode",
    "enable_mem_arena",
    "enable_mem_pattern",
    _SESSION_ENTRY,
    _RUN_ENTRY,
)


def _check_accelerators(accelerators: Mapping[str, Any], instance_kind: str) -> list[str]:
    ignored = []
    for entry in accelerators.get("cpu_execution_accelerator", ()):
        if entry["name"] != "openvino":
            raise MismatchError(f"unknown Execution Accelerator '{entry['name']}' is requested")
        ignored.append("cpu_execution_accelerator openvino: this ONNX Runtime has none")
    for entry in accelerators.get("gpu_execution_accelerator", ()):
        if instance_kind == "GPU" and entry["name"] not in ("tensorrt", "cuda"):
            raise MismatchError(f"unknown Execution Accelerator '{entry['name']}' is requested")
        ignored.append(f"gpu_execution_accelerator {entry['name']}: not used here")
    return ignored


def _integer(parameters: Mapping[str, str], name: str) -> int | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise MismatchError(f"parameter {name}: got {text!r}, expected an integer") from None


def _positive(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _boolean(parameters: Mapping[str, str], name: str) -> bool | None:
    text = parameters.get(name)
    if text is None:
        return None
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise MismatchError(f"parameter {name}: got {text!r}, expected true, 1, false or 0")
