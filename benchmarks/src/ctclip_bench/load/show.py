"""A result on the terminal, verdict first: whatever tables it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctclip_bench.results.result import FEW, Parity, Result, Row
from ctclip_client.cli.tables import print_table

_BUSY = 0.3
"""Share of the cores that other work took, from which it is worth a line."""
_TIMES = ("n", "p50", "p90", "p99")
_WIDEST = 24
_HIDDEN = ("transport",)
"""Figures for the JSON alone."""


def show(console: Console, result: Result) -> None:
    """Print the verdict, and under a passed one the numbers."""
    for line in _head(result):
        console.print(line, highlight=False, soft_wrap=True)
    console.print()
    if not result.rows:
        console.print("No timings: what answers wrongly has no latency.", highlight=False)
        return
    for name in dict.fromkeys(row.table for row in result.rows):
        print_table(console, _table(name, result.table(name)))
    for line in _remarks(result):
        console.print(line, highlight=False, soft_wrap=True)


def _head(result: Result) -> Iterable[str]:
    right = all(each.verdict == "PASS" for each in result.verdicts)
    style = "bold green" if right else "bold red"
    yield f"[{style}]PARITY {'PASS' if right else 'FAIL'}[/]"
    yield from (f"  {_verdict(each)}" for each in result.verdicts)
    subject, machine = result.subject, result.machine
    if subject["random_weights"]:
        yield "[bold yellow]RANDOM WEIGHTS[/]: a demo checkpoint; its findings mean nothing"
    shape = "×".join(map(str, subject["geometry"]["volume_shape"]))
    server = subject["server"]
    yield (
        f"release {subject['release']} ({subject['precision']}, {shape}), config "
        f"{subject['config']}, checkpoint {subject['provenance']['checkpoint']['sha256'][:16]}…"
    )
    gpu = f"{machine['gpu']['name']}, driver {machine['gpu']['driver']}; " if machine["gpu"] else ""
    yield (
        f"Triton {server['triton']} ({server['kind']}), vision on "
        f"{server['models']['ctclip_vision']['backend']}; {gpu}{machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB"
    )


def _verdict(parity: Parity) -> str:
    numbers = ""
    if parity.cosine is not None:
        numbers = (
            f": cosine {parity.cosine:.6f}, |Δprobability| {parity.probability_difference or 0:.1e}"
        )
    why = f" — {escape(parity.reason)}" if parity.reason else ""
    return f"{parity.verdict} against {parity.against}{numbers}{why}"


def _table(name: str, rows: Sequence[Row]) -> Table:
    settings = _keys(row.settings for row in rows)
    figures = [key for key in _keys(row.figures for row in rows) if key not in _HIDDEN]
    times = _TIMES if any(row.times_ms for row in rows) else ()
    lines = [
        [
            _title(row),
            *(_cell(row.settings.get(key)) for key in settings),
            *(_cell(getattr(row.times_ms, key, None)) for key in times),
            *(_cell(row.figures.get(key)) for key in figures),
        ]
        for row in rows
    ]
    table = Table(title=f"{name} (times in ms)", title_justify="left", box=SIMPLE_HEAD)
    for number, key in enumerate((name, *settings, *times, *figures)):
        header = key.replace("_", " ")
        widest = max(len(line[number]) for line in lines)
        table.add_column(
            header,
            justify="right" if number else "left",
            min_width=max(min(widest, _WIDEST), *map(len, header.split())),
        )
    for line in lines:
        table.add_row(*map(escape, line))
    return table


def _title(row: Row) -> str:
    failed = row.parity is not None and row.parity.verdict != "PASS"
    words = [row.name, "(WRONG ANSWERS)" if failed else ""]
    words.append(f"NOT RUN: {row.not_run}" if row.not_run else "")
    return " ".join(word for word in words if word)


def _keys(mappings: Iterable[Any]) -> tuple[str, ...]:
    """Of what fits into a cell, in the order in which they come."""
    found = (
        key
        for mapping in mappings
        for key, value in mapping.items()
        if not isinstance(value, list | dict)
    )
    return tuple(dict.fromkeys(found))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _remarks(result: Result) -> Iterable[str]:
    if any(row.times_ms and row.times_ms.n < FEW for row in result.rows):
        yield f"n < {FEW}: there p99 is little more than the slowest request."
    machine = result.machine
    if machine["load_before"] > _BUSY * machine["cores"]:
        yield (
            f"This machine was busy before ({machine['load_before']:.1f} of {machine['cores']} "
            "cores): these times are too long by what else it did."
        )
    yield from map(escape, result.notes)
