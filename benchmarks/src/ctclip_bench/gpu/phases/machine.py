"""What the machine can do at most, and what is on it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import Subject
from ctclip_bench.graphs.ceilings import measure_ceilings

_ASKED = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,persistence_mode,ecc.mode.current"


def measure(subject: Subject, rows: Rows) -> None:
    """Rates of products and copies; driver, CUDA, libpython."""
    if subject.cuda:
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} finds no GPU with CUDA here")
        rows.attempt("GPU", lambda: _gpu(rows))
    rows.add("Python", version=platform.python_version(), libpython=_has_libpython())
    found = measure_ceilings(subject.device, small=subject.settings.small)
    for precision, rate in found.products.items():
        rows.add(
            f"products, {precision}", settings={"precision": precision, "size": found.size},
            tera_operations_per_s=rate / 1e12,
        )  # fmt: skip
    rows.add("copy on the device", gb_per_s=found.copy / 1e9)
    for kind, rate in found.host_to_device.items():
        rows.add(f"host to device, {kind}", gb_per_s=rate / 1e9)
    for kind, rate in found.device_to_host.items():
        rows.add(f"device to host, {kind}", gb_per_s=rate / 1e9)


def _gpu(rows: Rows) -> None:
    cudnn: Any = torch.backends.cudnn  # without types
    about = torch.cuda.get_device_properties(0)
    told: dict[str, Any] = {}
    program = shutil.which("nvidia-smi")
    if program is not None:
        done = subprocess.run(
            [program, f"--query-gpu={_ASKED}", "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            told = dict(zip(_ASKED.split(","), done.stdout.strip().split(", "), strict=False))
    rows.add(
        "GPU",
        gpu=about.name,
        memory_gib=about.total_memory / 2**30,
        multiprocessors=about.multi_processor_count,
        compute_capability=f"{about.major}.{about.minor}",
        cuda=torch.version.cuda,
        cudnn=cudnn.version(),
        **{name.replace(".", "_"): value for name, value in told.items()},
    )


def _has_libpython() -> bool:
    """Whether the embedded Triton finds this interpreter's shared library."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    try:
        from ctclip_client.errors import Unavailable
        from ctclip_server.embedded.installation import find_libpython

        try:
            find_libpython()
        except Unavailable:
            return False
        return True
    except ImportError:  # ctclip-server is not on the path
        folders = (Path(sys.base_prefix) / "lib", Path("/usr/lib/x86_64-linux-gnu"))
        return any((folder / name).is_file() for folder in folders)
