"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from ctclip_client.system.processor import processor_name

_PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tritonclient", "numpy")


def describe_machine() -> dict[str, object]:
    """Processor, cores, memory, system and versions; nothing that names the machine or its user."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}, glibc {platform.libc_ver()[1]}",
        "python": platform.python_version(),
        "versions": versions,
    }
