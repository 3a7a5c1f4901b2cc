"""A measurement of graphs on the terminal: verdicts, then a table for each graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctclip_bench.results.result import FEW, Parity, Result, Row
from ctclip_client.cli.tables import print_table

_STYLES = {"PASS": "bold green", "FAIL": "bold red"}
_OWN = ("roofline", "ceilings")
"""Tables of other columns."""
_BOUNDED = ("vision", "text", "preprocess")
"""Graphs whose bounds on other devices are worth a column; the JSON has all."""


def show(console: Console, result: Result) -> None:
    """Print all of it."""
    for verdict in result.verdicts:
        style = _STYLES[verdict.verdict]
        line = f"[{style}]{verdict.verdict}[/] {escape(f'{verdict.against}: {verdict.reason}')}"
        console.print(line, highlight=False, soft_wrap=True)
    if result.subject["random_weights"]:
        console.print(
            "[bold yellow]RANDOM WEIGHTS[/]: a demo checkpoint; its findings mean nothing"
        )
    console.print(_about(result), highlight=False, soft_wrap=True)
    console.print()
    for name in dict.fromkeys(row.table for row in result.rows):
        if name not in _OWN:
            _print_runs(console, name, result.table(name))
    print_table(console, _roofline(result.table("roofline")))
    bounds = [
        row
        for row in result.table("roofline")
        if "datasheet" in row.settings["device"] and row.name in _BOUNDED
    ]
    print_table(console, _bounds(bounds))
    print_table(console, _ceilings(result.table("ceilings")))
    for line in _remarks(result):
        console.print(line, highlight=False, soft_wrap=True)


def _about(result: Result) -> str:
    machine, release = result.machine, result.subject
    shape = "×".join(map(str, release["geometry"]["volume_shape"]))
    gpu = machine.get("gpu") if result.plan["device"] == "cuda" else None
    where = f"{gpu['name']}, driver {gpu['driver']}; " if gpu else ""
    return escape(
        f"release {release['release']} ({release['precision']}, {shape}); {where}"
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load "
        f"{machine['load_before']} before"
    )


def _print_runs(console: Console, name: str, rows: Sequence[Row]) -> None:
    print_table(console, _runs(name, [row for row in rows if not row.not_run]))
    for row in rows:
        if row.not_run:
            line = f"  [yellow]NOT RUN[/] {escape(row.name)}: {escape(row.not_run)}"
            console.print(line, highlight=False, soft_wrap=True)
    console.print()


def _runs(name: str, rows: Sequence[Row]) -> Table:
    table = _table(f"{name[0].upper()}{name[1:]} (ms)", "run by")
    columns = (
        "n", "p50", "p90", "p99", "× first", "of limit", "codes", "cosine", "|Δlogit|", "largest Δ",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        times, figures = row.times_ms, row.figures
        parity = row.parity or Parity("", "")
        cells = ["", "", "", ""]
        if times is not None:
            cells = [str(times.n), *(_ms(each) for each in (times.p50, times.p90, times.p99))]
        elif parity.verdict == "FAIL":
            cells[0] = "[bold red]FAIL[/]"
        table.add_row(
            escape(row.name), *cells,
            _number(figures.get("times_of_first"), "{:.2f}"),
            _share(figures.get("share_of_limit")),
            _number(parity.codes_agree, "{:.3%}"), _number(parity.cosine, "{:.6f}"),
            _number(parity.logit_difference, "{:.1e}"),
            _number(figures.get("largest_difference"), "{:.1e}"),
        )  # fmt: skip
    return table


def _roofline(rows: Iterable[Row]) -> Table:
    table = _table("Roofline: what this machine's measured ceilings allow", "graph")
    for column in ("operations", "bytes", "per byte", "limit ms", "bound by", "by node ms"):
        table.add_column(column, justify="right")
    for row in rows:
        if "datasheet" in row.settings["device"]:
            continue
        found = row.figures
        table.add_row(
            f"{row.name} {row.settings['precision']}", _scaled(found["operations"]),
            _scaled(found["bytes"]), f"{found['intensity_operations_per_byte']:.3g}",
            _ms(found["limit_ms"]), found["bound_by"], _ms(found["limit_by_node_ms"]),
        )  # fmt: skip
    return table


def _bounds(rows: Sequence[Row]) -> Table:
    """GPUs down, graphs and precisions across."""
    table = _table("Bounds from datasheets, not measured (ms)", "GPU")
    columns = dict.fromkeys((row.name, row.settings["precision"]) for row in rows)
    for graph, precision in columns:
        table.add_column(f"{graph}\n{precision}", justify="right")
    for device in dict.fromkeys(row.settings["device"] for row in rows):
        found = {
            (row.name, row.settings["precision"]): _ms(row.figures["limit_ms"])
            for row in rows
            if row.settings["device"] == device
        }
        table.add_row(device.split(" datasheet")[0], *(found[column] for column in columns))
    return table


def _ceilings(rows: Iterable[Row]) -> Table:
    table = _table("Ceilings, measured", "what")
    table.add_column("a second", justify="right")
    for row in rows:
        ((name, rate),) = row.figures.items()
        table.add_row(row.name, f"{_scaled(rate)} {name.removesuffix('_per_s')}")
    return table


def _remarks(result: Result) -> list[str]:
    """Figures that have no column."""
    lines = []
    for row in result.rows:
        said = []
        if "compile_s" in row.figures:
            said.append(f"compiled in {row.figures['compile_s']:.1f} s")
        if "nodes_on_cpu" in row.figures:
            on_cpu, nodes = row.figures["nodes_on_cpu"], row.figures["nodes"]
            said.append(f"{on_cpu} of {nodes} node runs on the CPU")
        if "working_gib" in row.figures:
            said.append(f"{row.figures['working_gib']:.2f} GiB beside its weights")
        stages = {
            name.removesuffix("_ms"): value
            for name, value in row.figures.items()
            if name in ("read_ms", "preprocess_ms", "encode_ms")
        }
        said += [f"{name} {_ms(value)} ms" for name, value in stages.items()]
        if said:
            lines.append(f"{row.table}, {escape(row.name)}: {', '.join(said)}")
    lines += [escape(note) for note in result.notes]
    if any(row.times_ms is not None and row.times_ms.n < FEW for row in result.rows):
        lines.append(f"n < {FEW}: p99 is little more than the slowest run.")
    return lines


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.{0 if value >= 0.1 else 2}%}"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _scaled(value: float) -> str:
    """Three figures and a decimal prefix: 7.9e11 -> "790 G"."""
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "
