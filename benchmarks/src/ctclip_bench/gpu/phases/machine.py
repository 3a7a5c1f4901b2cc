"""What the machine can do at most, and what is on it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
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
from ctclip_bench.graphs.timing import Work, in_turn, measure_on

_ASKED = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,persistence_mode,ecc.mode.current"

_WIDTHS = (1365, 1368, 1376, 1408)
"""Of the feed-forward part: upstream's, and the next multiples of 8, 32 and 128."""
_LIMIT_S = 5.0


def measure(subject: Subject, rows: Rows) -> None:
    """Rates of products and copies, as `ctclip bench graphs` has them; driver, CUDA, libpython."""
    if subject.cuda:
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} finds no GPU with CUDA here")
        rows.attempt("GPU", lambda: _gpu(rows))
    rows.add("Python", version=platform.python_version(), libpython=_has_libpython())
    found = measure_ceilings(subject.device, small=subject.settings.small)
    for row in ceiling_rows(found):
        rows.tell(replace(row, table=rows.table), False)
    rows.attempt("feed-forward products", lambda: _feed_forward(subject, rows))


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


def _feed_forward(subject: Subject, rows: Rows) -> None:
    """Both products of a feed-forward part in bfloat16, of random numbers: what widths cost."""
    config, release = size(small=subject.settings.small).config.vision, subject.settings.release
    slabs, high, wide = release.geometry.token_shape if release else config.token_shape
    count, width = slabs * high * wide, config.width

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=subject.device, dtype=torch.bfloat16)

    works = {
        str(hidden): _products(
            [random(count, width), random(count, hidden)],
            [random(2 * hidden, width), random(width, hidden)],
        )
        for hidden in _WIDTHS
    }
    times = in_turn(
        works, measure_on(subject.device), rounds=subject.settings.runs, warmup=2, limit_s=_LIMIT_S
    )
    for name, milliseconds in times.items():
        settings = {"precision": "bf16", "width": int(name), "tokens": count}
        rows.add(f"feed-forward products bf16, width {name}", milliseconds, settings=settings)


def _products(inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> Work:
    return lambda: [F.linear(x, w) for x, w in zip(inputs, weights, strict=True)]
