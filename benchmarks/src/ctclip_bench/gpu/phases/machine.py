"""What the machine can do at most, and what is on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ctclip_bench.gpu.made import size
from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import Subject
from ctclip_bench.graphs.ceilings import measure_ceilings
from ctclip_bench.graphs.roofline import ceiling_rows
from ctclip_bench.graphs.timing import Work

_ASKED = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,persistence_mode,ecc.mode.current"
_WIDTHS = (1365, 1368, 1376, 1408)
"""Of the feed-forward part: upstream's, and the next multiples of 8, 32 and 128."""


def measure(subject: Subject, rows: Rows) -> None:
    """Rates of products and copies, as `ctclip bench graphs` has them; driver, CUDA, libpython."""
    if subject.cuda:
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} finds no GPU with CUDA here")
        with rows.attempt("GPU"):
            _gpu(rows)
    rows.add("Python", version=platform.python_version(), libpython=_has_libpython())
    found = measure_ceilings(subject.device, small=subject.settings.small)
    for row in ceiling_rows(found):
        rows.tell(replace(row, table=rows.table), False)
    with rows.attempt("feed-forward products"):
        _feed_forward(subject, rows)


def _gpu(rows: Rows) -> None:
    cudnn: Any = torch.backends.cudnn  # without types
    told: dict[str, Any] = {}
    if program := shutil.which("nvidia-smi"):
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        done = subprocess.run(
            [program, f"--query-gpu={_ASKED}", "--format=csv,noheader", f"--id={first}"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            names = _ASKED.replace(".", "_").split(",")
            told = dict(zip(names, done.stdout.strip().split(", "), strict=False))
    about = torch.cuda.get_device_properties(0)
    rows.add(
        "GPU", gpu=about.name, memory_gib=about.total_memory / 2**30,
        multiprocessors=about.multi_processor_count,
        compute_capability=f"{about.major}.{about.minor}",
        cuda=torch.version.cuda, cudnn=cudnn.version(), **told,
    )  # fmt: skip


def _has_libpython() -> bool:
    """Of this interpreter, which the embedded Triton needs."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = (
        f"{sys.base_prefix}/lib",
        sysconfig.get_config_var("LIBDIR"),
        "/usr/lib/x86_64-linux-gnu",
    )
    return any(Path(folder, name).is_file() for folder in folders if folder)


def _feed_forward(subject: Subject, rows: Rows) -> None:
    """Both products of a feed-forward part in bfloat16, of random numbers: what widths cost."""
    config, release = size(small=subject.settings.small).config.vision, subject.settings.release
    slabs, high, wide = release.geometry.token_shape if release else config.token_shape
    count, width = slabs * high * wide, config.width

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=subject.device, dtype=torch.bfloat16)

    def products(hidden: int) -> Work:
        x, up = random(count, width), random(2 * hidden, width)
        y, down = random(count, hidden), random(width, hidden)
        return lambda: (F.linear(x, up), F.linear(y, down))

    times = subject.times({str(hidden): products(hidden) for hidden in _WIDTHS})
    for name, milliseconds in times.items():
        settings = {"precision": "bf16", "width": int(name), "tokens": count}
        rows.add(f"feed-forward products bf16, width {name}", milliseconds, settings=settings)
