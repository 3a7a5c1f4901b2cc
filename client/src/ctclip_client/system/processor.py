"""The CPU that this process runs on, as far as it matters for how a model computes.

Imports the standard library only: the container image takes this file as it is.
"""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = (
    ("AVX2", {"avx2"}),
    ("AVX-512", {"avx512f"}),
    ("VNNI", {"avx512_vnni", "avx_vnni"}),
    ("bf16", {"avx512_bf16", "amx_bf16"}),
)
"""Instruction sets by which precisions differ -> flags of Linux that say so, any of them."""


def processor_name() -> str:
    """The CPU's name as it states it itself."""
    return _entry("model name") or platform.processor() or "unknown CPU"


def processor() -> str:
    """Name and instruction sets: "AMD EPYC (AVX2, AVX-512, no VNNI, no bf16)"."""
    flags = _flags()
    if not flags:
        return processor_name()
    told = (name if flags & any_of else f"no {name}" for name, any_of in _INSTRUCTIONS)
    return f"{processor_name()} ({', '.join(told)})"


def has_bfloat16() -> bool:
    """Whether products of bfloat16 are computed as such, and so in half the time of float32."""
    return bool(_flags() & dict(_INSTRUCTIONS)["bf16"])


def _flags() -> set[str]:
    return set(_entry("flags").split())


def _entry(key: str) -> str:
    """What the first CPU says under a key; empty where the system does not tell."""
    try:
        lines = _CPUINFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip() == key:
            return value.strip()
    return ""
