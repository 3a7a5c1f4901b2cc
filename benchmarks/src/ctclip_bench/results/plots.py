"""Results as plots, each a picture in SVG; none where a result has nothing for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctclip_bench.results.result import Result, Row, Times

_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "ctclip", "font.size": 9,
    "text.parse_math": False,
}  # fmt: skip
_NOTHING: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))


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


def _timed(rows: Iterable[Row]) -> list[tuple[Row, Times]]:
    return [(row, row.times_ms) for row in rows if row.times_ms]


def _stages(result: Result, axes: Axes) -> bool:
    """Latency by stage: one bar a scan's way, from the first stage down to the last."""
    return _bars(axes, [row for row in result.table("stages") if row.name != "whole"])


def _vision(result: Result, axes: Axes) -> bool:
    """The vision graph in every runtime, and the limit of the machine."""
    for row in _counted(result):
        if row.name == "vision":
            limit = row.figures["limit_ms"]
            axes.axvline(limit, color="black", linestyle="--")
            axes.annotate(
                f"limit of this machine: {limit:.0f} ms", (limit, 1.01),
                xycoords=("data", "axes fraction"), fontsize=8,
            )  # fmt: skip
    return _bars(axes, result.table("vision"))


def _counted(result: Result) -> list[Row]:
    """Of the roofline the rows of the machine that was measured, not the datasheets'."""
    return [row for row in result.table("roofline") if not row.is_bound]


def _bars(axes: Axes, rows: Iterable[Row]) -> bool:
    timed = _timed(rows)
    places, values = range(len(timed)), [times.p50 for _, times in timed]
    drawn = axes.barh(places, values, color="#3b6ea5")
    axes.bar_label(drawn, [f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in values])
    axes.set_yticks(places, [row.name for row, _ in timed])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("ms, median")
    return bool(timed)


def _throughput(result: Result, axes: Axes) -> bool:
    """Scans a second against the 99th percentile of the latency."""
    rows = (*result.table("clients"), *result.table("scenarios"))
    timed = [(row, times) for row, times in _timed(rows) if "scans_per_s" in row.figures]
    for row, times in timed:
        at = times.p99 / 1000, float(row.figures["scans_per_s"])
        axes.plot(*at, "o", color="#3b6ea5")
        axes.annotate(row.name, at, xytext=(5, 3), textcoords="offset points", fontsize=8)
    axes.set_xlabel("p99 of the latency, s")
    axes.set_ylabel("scans a second")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.2, y=0.15)
    return bool(timed)


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
        axes.plot(
            [span[0], rate / copies, span[1]], [span[0] * copies, rate, rate], label=name, lw=1
        )
    for row, intensity in zip(graphs, intensities, strict=True):
        timed = [times.p50 for _, times in _timed(result.table(row.name))]
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


def _growth(axis: str, result: Result, axes: Axes) -> bool:
    timed = [each for each in _timed(result.table(axis)) if each[0].settings.get(axis) is not None]
    if not timed:
        return False
    sizes = [float(row.settings[axis]) for row, _ in timed]
    axes.plot(sizes, [times.p50 / 1000 for _, times in timed], "o-")
    if max(sizes) / min(sizes) > 20:
        axes.set_xscale("log")
    axes.set_xlabel(axis)
    axes.set_ylabel("s, median")
    axes.set_ylim(bottom=0)
    return True


_PLOTS: dict[str, Callable[[Result, Axes], bool]] = {
    "Latency by stage": _stages,
    "Vision graph": _vision,
    "Roofline": _roofline,
    "Throughput against p99": _throughput,
    **{
        f"Cost by {axis}": partial(_growth, axis)
        for axis in ("slices", "matrix", "prompts", "clients", "scans")
    },
}
