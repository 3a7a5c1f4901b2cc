"""The least time that a graph can take on a device: its operations at the device's rate of matrix
products, or its bytes at the device's rate of copies, whichever takes longer.

Williams, Waterman, Patterson: Roofline, Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctclip_bench.graphs.ceilings import Ceilings
from ctclip_bench.results.result import DATASHEET, Row

if TYPE_CHECKING:
    from ctclip_bench.graphs.counts import Count  # imports onnxruntime, which may not be there

# What NVIDIA's datasheets say that GPUs can do at most, for bounds and never for results: dense
# 10¹² operations a second in fp32 on the CUDA cores, TF32, fp16 and bf16, int8, and peak memory
# bandwidth in 10⁹ bytes a second. "NVIDIA A100 Tensor Core GPU" (2021; SXM), "NVIDIA H100 Tensor
# Core GPU" and "NVIDIA H200 Tensor Core GPU" (2024; SXM), "NVIDIA L4 Tensor Core GPU" and "NVIDIA
# L40S" (2023). Where one states the sparse rate alone, it is halved.
_DATASHEETS = {
    "A100 SXM 40 GB": (19.5, 156, 312, 624, 1555),
    "A100 SXM 80 GB": (19.5, 156, 312, 624, 2039),
    "H100 SXM": (67, 494.5, 989.5, 1979, 3350),
    "H200 SXM": (67, 494.5, 989.5, 1979, 4800),
    "L4": (30.3, 60, 121, 242.5, 300),
    "L40S": (91.6, 183, 362, 733, 864),
}


def limit_of(count: Count, products: Mapping[str, float], copy: float) -> dict[str, Any]:
    """`limit_ms`: no run takes less. `bound_by`: "products" or "copies". `limit_by_node_ms`: the
    same if every node read and wrote memory, with nothing fused or kept in a cache.

    products: operations a second by precision; a precision that is not among them is computed in
    float32. copy: bytes a second, read and written counted.
    Elementwise operations are left out: no ceiling is measured for them, and they overlap with
    products or copies.
    """
    of_products = sum(
        operations / products.get(precision, products["fp32"]) * 1000
        for precision, operations in count.products.items()
    )
    least, by_node = (bytes_ / copy * 1000 for bytes_ in (count.bytes_least, count.bytes_by_node))
    return {
        "limit_ms": max(of_products, least),
        "bound_by": "products" if of_products >= least else "copies",
        "limit_by_node_ms": max(of_products, by_node),
    }


def roofline_row(
    graph: str, precision: str, count: Count, device: str, limit: Mapping[str, Any]
) -> Row:
    """graph: "vision", …; precision: of its products; device: in words; limit: of `limit_of`."""
    figures: dict[str, Any] = {
        "operations": count.operations,
        "product_operations": sum(count.products.values()),
        "bytes": count.bytes_least,
        "bytes_by_node": count.bytes_by_node,
        "intensity_operations_per_byte": count.operations / count.bytes_least,
        **limit,
    }
    if count.unknown:
        figures["nodes_not_counted"] = len(count.unknown)
    return Row("roofline", graph, {"device": device, "precision": precision}, figures=figures)


def datasheet_rows(graph: str, precision: str, count: Count, *, encoder: bool = False) -> list[Row]:
    """Bounds for GPUs that are not at hand: a row for each, and for an encoder in float32 two more,
    its products in TF32 and its trunk in bf16 (fp16 is as fast).
    """
    rows = []
    for name, (fp32, tf32, half, int8, copy) in _DATASHEETS.items():
        rates = {"fp32": fp32, "fp16": half, "bf16": half, "int8": int8}
        forms = {precision: (count, rates)}
        if encoder and precision == "fp32":
            forms |= {"tf32": (count, {"fp32": tf32}), "bf16": (count.typed("bf16"), rates)}
        for form, (counted, products) in forms.items():
            per_s = {each: rate * 1e12 for each, rate in products.items()}
            limit = limit_of(counted, per_s, copy * 1e9)
            device = f"{name} {DATASHEET} (bound, not measured)"
            rows.append(roofline_row(graph, form, counted, device, limit))
    return rows


def ceiling_rows(ceilings: Ceilings) -> list[Row]:
    """What this machine can do, as the table "ceilings"."""
    device = ceilings.device
    rows = [
        Row(
            "ceilings", f"products, {name}", {"device": device, "size": ceilings.size},
            figures={"operations_per_s": rate},
        )
        for name, rate in ceilings.products.items()
    ]  # fmt: skip
    rates = {"copy": ceilings.copy}
    rates |= {f"host to device, {kind}": rate for kind, rate in ceilings.host_to_device.items()}
    rates |= {f"device to host, {kind}": rate for kind, rate in ceilings.device_to_host.items()}
    return rows + [
        Row("ceilings", name, {"device": device}, figures={"bytes_per_s": rate})
        for name, rate in rates.items()
    ]
