"""The GPU of this machine, as the driver tells it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from ctclip_client.errors import CTClipError

DRIVERS_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""With it in its environment, a process numbers GPUs as nvidia-smi and docker do. CUDA's own order
is by speed."""
_QUERY = "name,compute_cap,memory.total,memory.used,driver_version"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_REMEDY = "An engine for Triton is built on the GPU that will serve it."


class NoGpu(CTClipError):
    """No NVIDIA GPU answers on this machine. Exit code 1."""


@dataclass(frozen=True)
class Gpu:
    """compute_capability: such as "8.0". Memory in bytes."""

    name: str
    compute_capability: str
    memory_bytes: int
    memory_used_bytes: int
    driver: str


def read_gpu(environment: Mapping[str, str] | None = None) -> Gpu:
    """Ask `nvidia-smi` for the GPU that CUDA takes by itself: the first visible one.

    environment: of the process that uses the GPU; without it, this one's. Raises: NoGpu.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        raise NoGpu("no NVIDIA driver: nvidia-smi is not on this machine.", _REMEDY)
    name = _first_visible(os.environ if environment is None else environment)
    try:
        done = subprocess.run(
            [program, f"--id={name}", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoGpu(f"nvidia-smi does not answer: {error}.", _REMEDY) from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip() or f"exit code {done.returncode}"
        raise NoGpu(f"nvidia-smi: {said.splitlines()[0]}", _REMEDY)
    return parse_gpu(done.stdout)


def parse_gpu(text: str) -> Gpu:
    """One line of `nvidia-smi --format=csv,noheader,nounits` (memory in MiB). Raises: NoGpu."""
    fields = [field.strip() for field in text.strip().partition("\n")[0].split(",")]
    try:
        name, capability, total, used, driver = fields
        return Gpu(name, capability, int(total) * 2**20, int(used) * 2**20, driver)
    except ValueError as error:
        raise NoGpu(f"nvidia-smi: not understood: {text.strip()!r}", _REMEDY) from error


def _first_visible(environment: Mapping[str, str]) -> str:
    """Its number or UUID, as nvidia-smi takes them. Raises: NoGpu."""
    visible = environment.get(_VISIBLE, "0")
    first = visible.partition(",")[0].strip()
    if not re.fullmatch(r"\d+|GPU-.+", first):
        raise NoGpu(
            f"{_VISIBLE}: got '{visible}', expected the number or the UUID (GPU-…) of a GPU.",
            "Name one, or leave the variable out.",
        )
    return first
