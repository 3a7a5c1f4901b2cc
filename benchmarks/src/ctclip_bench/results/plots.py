"""Results as plots, each a picture in SVG; none where a result has nothing for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctclip_bench.results.result import DATASHEET, Result, Row

_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "ctclip", "font.size": 9,
    "text.parse_math": False,
}  # fmt: skip
_NOTHING: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
GROWTH = ("slices", "matrix", "prompts", "clients", "scans")


def plots(result: Result) -> dict[str, str]:
    """Title -> SVG."""
    found = {}
    for title, draw in _PLOTS.items():
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(7.5, 3.6), layout="constrained")
            if draw(result, figure.add_subplot()):
                found[title] = _svg(figure)
    return found


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata=_NOTHING)
    text = written.getvalue()
    return text[text.index("<svg") :]


def _stages(result: Result, axes: Axes) -> bool:
    """Latency by stage: one bar a scan's way, from the first stage down to the last."""
    rows = [row for row in result.table("stages") if row.times_ms and row.name != "whole"]
    if not rows:
        return False
    _bars(axes, [(row.name, row.times_ms.p50) for row in rows if row.times_ms], "ms, median")
    return True


def _vision(result: Result, axes: Axes) -> bool:
    """The vision graph in every runtime, and the limit of the machine."""
    rows = [row for row in result.table("vision") if row.times_ms]
    if not rows:
        return False
    _bars(axes, [(row.name, row.times_ms.p50) for row in rows if row.times_ms], "ms, median")
    for row in _counted(result):
        if row.name == "vision":
            limit = row.figures["limit_ms"]
            axes.axvline(limit, color="black", linestyle="--")
            axes.annotate(
                f"limit of this machine: {limit:.0f} ms", (limit, 1.01),
                xycoords=("data", "axes fraction"), fontsize=8,
            )  # fmt: skip
            break
    return True


def _counted(result: Result) -> list[Row]:
    """Of the roofline the rows of the machine that was measured, not the datasheets'."""
    return [
        row for row in result.table("roofline")
        if DATASHEET not in str(row.settings.get("device"))
    ]  # fmt: skip


def _bars(axes: Axes, bars: Sequence[tuple[str, float]], label: str) -> None:
    places = range(len(bars))
    drawn = axes.barh(places, [value for _, value in bars], color="#3b6ea5")
    axes.bar_label(drawn, [f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for _, value in bars])
    axes.set_yticks(places, [name for name, _ in bars])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(label)


def _throughput(result: Result, axes: Axes) -> bool:
    """Scans a second against the 99th percentile of the latency."""
    rows = [
        row for row in (*result.table("clients"), *result.table("scenarios"))
        if row.times_ms and "scans_per_s" in row.figures
    ]  # fmt: skip
    if not rows:
        return False
    for row in rows:
        if row.times_ms:
            at = row.times_ms.p99 / 1000, float(row.figures["scans_per_s"])
            axes.plot(*at, "o", color="#3b6ea5")
            axes.annotate(row.name, at, xytext=(5, 3), textcoords="offset points", fontsize=8)
    axes.set_xlabel("p99 of the latency, s")
    axes.set_ylabel("scans a second")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.2, y=0.15)
    return True


def _roofline(result: Result, axes: Axes) -> bool:
    """Operations a second against operations a byte, under the two ceilings of the machine."""
    graphs = _counted(result)
    ceilings = {row.name: row.figures for row in result.table("ceilings")}
    copies = ceilings.get("copy", {}).get("bytes_per_s")
    products = {
        name.removeprefix("products, "): figures["operations_per_s"]
        for name, figures in ceilings.items()
        if "operations_per_s" in figures
    }
    if not graphs or copies is None or not products:
        return False
    intensities = [float(row.figures["intensity_operations_per_byte"]) for row in graphs]
    span = min(*intensities, 0.1), max(*intensities, 1e4)
    for name, rate in products.items():
        knee = rate / copies
        axes.plot([span[0], knee, span[1]], [span[0] * copies, rate, rate], label=name, lw=1)
    for row, intensity in zip(graphs, intensities, strict=True):
        timed = [each.times_ms.p50 for each in result.table(row.name) if each.times_ms]
        if timed and row.figures.get("operations"):
            at = intensity, float(row.figures["operations"]) / min(timed) * 1000
            axes.plot(*at, "o", color="black")
            axes.annotate(row.name, at, xytext=(4, -10), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("operations a second")
    axes.legend(title="ceiling", fontsize=8)
    return True


def _growth(axis: str) -> Callable[[Result, Axes], bool]:
    def draw(result: Result, axes: Axes) -> bool:
        rows = [
            row for row in result.table(axis) if row.times_ms and row.settings.get(axis) is not None
        ]
        if not rows:
            return False
        sizes = [float(row.settings[axis]) for row in rows]
        axes.plot(sizes, [row.times_ms.p50 / 1000 for row in rows if row.times_ms], "o-")
        if max(sizes) / min(sizes) > 20:
            axes.set_xscale("log")
        axes.set_xlabel(axis)
        axes.set_ylabel("s, median")
        axes.set_ylim(bottom=0)
        return True

    return draw


_PLOTS: dict[str, Callable[[Result, Axes], bool]] = {
    "Latency by stage": _stages,
    "Vision graph": _vision,
    "Roofline": _roofline,
    "Throughput against p99": _throughput,
    **{f"Cost by {axis}": _growth(axis) for axis in GROWTH},
}


def by_table(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the table they belong to, both in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.table, []).append(row)
    return found
