"""The GPU of this machine, as the driver tells it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from ctclip_client.errors import CTClipError

_QUERY = "name,compute_cap,memory.total,memory.used,driver_version"


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


def read_gpu(index: int = 0) -> Gpu:
    """Ask `nvidia-smi`. Raises: NoGpu."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise NoGpu("no NVIDIA driver: nvidia-smi is not on this machine.", _remedy())
    try:
        done = subprocess.run(
            [program, f"--id={index}", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoGpu(f"nvidia-smi does not answer: {error}.", _remedy()) from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip() or f"exit code {done.returncode}"
        raise NoGpu(f"nvidia-smi: {said.splitlines()[0]}", _remedy())
    return parse_gpu(done.stdout)


def parse_gpu(text: str) -> Gpu:
    """One line of `nvidia-smi --format=csv,noheader,nounits` (memory in MiB). Raises: NoGpu."""
    fields = [field.strip() for field in text.strip().splitlines()[0].split(",")] if text else []
    try:
        name, capability, total, used, driver = fields
        return Gpu(name, capability, int(total) * 2**20, int(used) * 2**20, driver)
    except ValueError as error:
        raise NoGpu(f"nvidia-smi: not understood: {text.strip()!r}", _remedy()) from error


def _remedy() -> str:
    return "An engine for Triton is built on the GPU that will serve it."
