"""Rows as plain text: where a GPU is measured, nothing more than Python may be there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctclip_bench.results.result import Parity, Row
from ctclip_client.system.terminal import printable


def line(row: Row) -> str:
    """A row, indented below its phase."""
    return printable(f"  {row.name}: {_told(row)}")


def _told(row: Row) -> str:
    if row.not_run:
        return f"NOT RUN: {row.not_run}"
    parts = []
    if row.times_ms is not None:
        times = row.times_ms
        parts.append(f"{times.p50:.4g} ms (p90 {times.p90:.4g}, n {times.n})")
    if row.parity is not None:
        parts.append(_parity(row.parity))
    parts += [_figure(name, value) for name, value in _known(row.figures).items()]
    return "; ".join(parts)


def _parity(parity: Parity) -> str:
    said = [parity.verdict]
    if parity.codes_agree is not None:
        said.append(f"codes {parity.codes_agree:.3%}")
    if parity.cosine is not None:
        said.append(f"cosine {parity.cosine:.6f}")
    if parity.logit_difference is not None:
        said.append(f"|Δlogit| {parity.logit_difference:.1e}")
    if parity.reason:
        said.append(f"({parity.reason})")
    return " ".join(said)


def _figure(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"not {words}"
    return f"{words} {value:.4g}" if isinstance(value, float) else f"{words} {value}"


def _known(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if value not in (None, "")}
