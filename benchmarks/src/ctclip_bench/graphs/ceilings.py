"""What this machine can do at most: matrix products, copies, transfers to the GPU. Measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ctclip_bench.graphs.timing import Work, measure_on

_RUNS = 10
_LIMIT_S = 0.5
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
_TRANSFER_BYTES = 2**28
PRODUCTS: dict[str, tuple[torch.dtype, bool]] = {
    "fp32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "fp16": (torch.float16, False),
    "bf16": (torch.bfloat16, False),
    "int8": (torch.int8, False),
}
"""Name -> type of the operands, and whether TF32 may be used for them."""
_GPU_ONLY = ("tf32", "fp16")
"""PyTorch multiplies float16 on most CPUs in a plain loop: 200 times slower than float32."""


@dataclass(frozen=True)
class Ceilings:
    """products: operations a second of a square matrix product, by name of PRODUCTS (2·n³ for n×n;
    multiplication and addition count one each). copy: bytes a second of a copy on the device, read
    and written counted. host_to_device, device_to_host: bytes a second by "pinned" and "pageable",
    empty on a CPU.
    """

    device: str
    size: int
    products: dict[str, float]
    copy: float
    host_to_device: dict[str, float]
    device_to_host: dict[str, float]


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let products and convolutions of float32 use TF32, or not, for the block."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = on
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def measure_ceilings(device: str, *, small: bool = False) -> Ceilings:
    """device: "cpu" or "cuda". small: for a test: tiny matrices and copies."""
    size = 256 if small else 8192 if device == "cuda" else 2048
    products = {}
    for name, (dtype, fast) in PRODUCTS.items():
        if name in _GPU_ONLY and device != "cuda":
            continue
        with contextlib.suppress(RuntimeError, NotImplementedError), tf32(fast):
            milliseconds = _least(device, _product(device, dtype, size))
            products[name] = 2 * size**3 / milliseconds * 1000
    scale = 64 if small else 1
    source = torch.ones(_COPY_BYTES[device] // scale, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / _least(device, partial(target.copy_, source)) * 1000
    to_device, to_host = {}, {}
    if device == "cuda":
        count = _TRANSFER_BYTES // scale
        there = torch.empty(count, dtype=torch.uint8, device=device)
        for kind in ("pinned", "pageable"):
            here = torch.ones(count, dtype=torch.uint8, pin_memory=kind == "pinned")
            to_device[kind] = count / _least(device, partial(there.copy_, here)) * 1000
            to_host[kind] = count / _least(device, partial(here.copy_, there)) * 1000
    return Ceilings(device, size, products, copy, to_device, to_host)


def _product(device: str, dtype: torch.dtype, size: int) -> Work:
    if dtype == torch.int8:
        a, b = (torch.randint(-128, 128, (size, size), device=device).to(dtype) for _ in range(2))
        multiply: Callable[[Tensor, Tensor], Tensor] = torch._int_mm
        # cuBLAS has its fast kernels for a second operand that lies by columns, and for no other.
        return partial(multiply, a, b.t() if device == "cuda" else b)
    x, y = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return partial(torch.matmul, x, y)


def _least(device: str, work: Work) -> float:
    """Milliseconds of the quickest run: what else the machine does only ever takes time."""
    measure = measure_on(device)
    work()
    begun, times = time.perf_counter(), [measure(work)]
    while len(times) < _RUNS and time.perf_counter() - begun < _LIMIT_S:
        times.append(measure(work))
    return min(times)
