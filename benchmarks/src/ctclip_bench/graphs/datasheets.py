"""What NVIDIA's datasheets say that GPUs can do at most: for bounds, never for results.

Dense rates, without the sparsity that the sheets double them by, and peak memory bandwidth. The
sheets: "NVIDIA A100 Tensor Core GPU" (2021; SXM), "NVIDIA H100 Tensor Core GPU" (2024; SXM),
"NVIDIA H200 Tensor Core GPU" (2024; SXM), "NVIDIA L4 Tensor Core GPU" (2023), "NVIDIA L40S" (2023).
Where one states the sparse rate alone, it is halved. fp32 is the rate of the CUDA cores, no TF32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Datasheet:
    """products: operations a second by precision. copy: bytes a second."""

    name: str
    products: Mapping[str, float]
    copy: float


def _products(fp32: float, tf32: float, half: float, int8: float) -> dict[str, float]:
    """Of 10¹² a second; fp16 and bf16 are equally fast on all of them."""
    rates = {"fp32": fp32, "tf32": tf32, "fp16": half, "bf16": half, "int8": int8}
    return {name: rate * 1e12 for name, rate in rates.items()}


_A100, _H100 = _products(19.5, 156, 312, 624), _products(67, 494.5, 989.5, 1979)

DATASHEETS = (
    Datasheet("A100 SXM 40 GB", _A100, 1555e9),
    Datasheet("A100 SXM 80 GB", _A100, 2039e9),
    Datasheet("H100 SXM", _H100, 3350e9),
    Datasheet("H200 SXM", _H100, 4800e9),
    Datasheet("L4", _products(30.3, 60, 121, 242.5), 300e9),
    Datasheet("L40S", _products(91.6, 183, 362, 733), 864e9),
)
