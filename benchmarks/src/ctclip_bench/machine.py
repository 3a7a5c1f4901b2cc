"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ctclip_client.system.processor import processor
from ctclip_export.engines.gpu import NoGpu, read_gpu

_PACKAGES = (
    "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tritonclient",
    "nvidia-pytriton", "mlcommons-loadgen", "nibabel", "numpy",
)  # fmt: skip

_LOAD_BEFORE = os.getloadavg()[0]
"""Read when this is imported: at the end, when a result is written, it would be our own work."""


def describe_machine() -> dict[str, Any]:
    """Processor with its instruction sets, cores, memory, GPU, system and versions; nothing that
    names the machine or its user.

    load_before: the kernel's load average of the minute before this process began to measure, in
    busy cores: other work here makes everything slower.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(_LOAD_BEFORE, 2),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}, glibc {platform.libc_ver()[1]}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _gpu() -> dict[str, Any] | None:
    try:
        gpu = read_gpu()
    except NoGpu:
        return None
    return {
        "name": gpu.name,
        "compute_capability": gpu.compute_capability,
        "memory_gib": round(gpu.memory_bytes / 2**30, 1),
        "driver": gpu.driver,
    }
