"""The least time that a graph can take on a device: its operations at the device's rate of matrix
products, or its bytes at the device's rate of copies, whichever takes longer.

Williams, Waterman, Patterson: Roofline, Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctclip_bench.graphs.ceilings import Ceilings
from ctclip_bench.graphs.datasheets import DATASHEETS
from ctclip_bench.results.result import Row

if TYPE_CHECKING:
    from ctclip_bench.graphs.counts import Count  # imports onnxruntime, which may not be there

TABLE = "roofline"


@dataclass(frozen=True)
class Limit:
    """limit_ms: no run takes less. bound_by: "products" or "copies". by_node_ms: the same if every
    node read and wrote memory, with nothing fused or kept in a cache.
    """

    limit_ms: float
    bound_by: str
    by_node_ms: float


def limit_of(count: Count, products: Mapping[str, float], copy: float) -> Limit:
    """products: operations a second by precision; a precision that is not among them is computed in
    float32. copy: bytes a second, read and written counted.

    Elementwise operations are left out: no ceiling is measured for them, and they overlap with
    products or copies.
    """
    slowest = products["fp32"]
    of_products = sum(
        operations / products.get(precision, slowest) * 1000
        for precision, operations in count.products.items()
    )
    least, by_node = (bytes_ / copy * 1000 for bytes_ in (count.bytes_least, count.bytes_by_node))
    bound_by = "products" if of_products >= least else "copies"
    return Limit(max(of_products, least), bound_by, max(of_products, by_node))


def limit_here(count: Count, ceilings: Ceilings) -> Limit:
    """On this machine, by what was measured on it."""
    return limit_of(count, ceilings.products, ceilings.copy)


def roofline_row(graph: str, precision: str, count: Count, device: str, limit: Limit) -> Row:
    """graph: "vision", …; precision: of its products; device: in words."""
    figures: dict[str, Any] = {
        "operations": count.operations,
        "product_operations": sum(count.products.values()),
        "bytes": count.bytes_least,
        "bytes_by_node": count.bytes_by_node,
        "intensity_operations_per_byte": count.operations / count.bytes_least,
        "limit_ms": limit.limit_ms,
        "bound_by": limit.bound_by,
        "limit_by_node_ms": limit.by_node_ms,
    }
    if count.unknown:
        figures["nodes_not_counted"] = len(count.unknown)
    return Row(TABLE, graph, {"device": device, "precision": precision}, figures=figures)


def datasheet_rows(graph: str, precision: str, count: Count, *, encoder: bool = False) -> list[Row]:
    """Bounds for GPUs that are not at hand: a row for each, and for an encoder in float32 two more,
    its products in TF32 and its trunk in bf16 (fp16 is as fast).
    """
    rows = []
    for sheet in DATASHEETS:
        forms = {precision: (count, dict(sheet.products))}
        if encoder and precision == "fp32":
            fast = {**sheet.products, "fp32": sheet.products["tf32"]}
            forms |= {
                "tf32": (count, fast), "bf16": (count.typed("bf16"), dict(sheet.products)),
            }  # fmt: skip
        for name, (counted, products) in forms.items():
            limit = limit_of(counted, products, sheet.copy)
            device = f"{sheet.name} datasheet (bound, not measured)"
            rows.append(roofline_row(graph, name, counted, device, limit))
    return rows


def ceiling_rows(ceilings: Ceilings) -> list[Row]:
    """What this machine can do, as the table "ceilings"."""
    table, device = "ceilings", ceilings.device
    rows = [
        Row(
            table, f"products, {name}", {"device": device, "size": ceilings.size},
            figures={"operations_per_s": rate},
        )
        for name, rate in ceilings.products.items()
    ]  # fmt: skip
    rates = {"copy": ceilings.copy}
    rates |= {f"host to device, {kind}": rate for kind, rate in ceilings.host_to_device.items()}
    rates |= {f"device to host, {kind}": rate for kind, rate in ceilings.device_to_host.items()}
    return rows + [
        Row(table, name, {"device": device}, figures={"bytes_per_s": rate})
        for name, rate in rates.items()
    ]
