"""A result on the terminal, verdict first: whatever tables it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctclip_bench.results.cells import cells, columns
from ctclip_bench.results.result import FEW, Result, Row
from ctclip_client.cli.tables import print_table

_BUSY = 0.3
"""Share of the cores that other work took, from which it is worth a line."""
_WIDEST = 24


def show(console: Console, result: Result) -> None:
    """Print the verdict, and under a passed one the numbers."""

    def say(*lines: str) -> None:
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)

    say(*_head(result), "")
    if not result.rows:
        say("No timings: what answers wrongly has no latency.")
    for name, every in result.tables.items():
        rows = [row for row in every if not row.is_bound]
        if ran := [row for row in rows if not row.not_run]:
            print_table(console, _table(name, ran))
        for row in rows:
            if row.not_run:
                say(f"  [yellow]NOT RUN[/] {escape(f'{row.name}: {row.not_run}')}")
    if result.rows:
        say(*_remarks(result))


def _head(result: Result) -> Iterator[str]:
    right = all(each.verdict == "PASS" for each in result.verdicts)
    yield "[bold green]PARITY PASS[/]" if right else "[bold red]PARITY FAIL[/]"
    for each in result.verdicts:
        line = f"  {each.verdict} against {each.against}"
        if each.cosine is not None:
            line += f": cosine {each.cosine:.6f}"
            line += f", |Δprobability| {each.probability_difference or 0:.1e}"
        yield escape(f"{line} — {each.reason}" if each.reason else line)
    subject, machine = result.subject, result.machine
    if subject["random_weights"]:
        yield "[bold yellow]RANDOM WEIGHTS[/]: a demo checkpoint; its findings mean nothing"
    shape = "×".join(map(str, subject["geometry"]["volume_shape"]))
    checkpoint = subject.get("provenance", subject)["checkpoint"]["sha256"]
    config = f" config {subject['config']}," if "config" in subject else ""
    yield escape(
        f"release {subject['release']} ({subject['precision']}, {shape}),{config} checkpoint "
        f"{checkpoint[:16]}…"
    )
    where = ""
    if "server" in subject:
        server = subject["server"]
        backend = server["models"]["ctclip_vision"]["backend"]
        where = f"Triton {server['triton']} ({server['kind']}), vision on {backend}; "
    if result.on_gpu:
        where += f"{machine['gpu']['name']}, driver {machine['gpu']['driver']}; "
    yield escape(
        f"{where}{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    )


def _table(name: str, rows: Sequence[Row]) -> Table:
    """Settings have columns only where names do not tell rows apart."""
    unique = len({row.name for row in rows}) == len(rows)
    lines = [cells(replace(row, settings={}) if unique else row) for row in rows]
    table = Table(title=name, title_justify="left", box=SIMPLE_HEAD)
    for column in columns(lines):
        widest = max(len(line.get(column, "")) for line in lines)
        table.add_column(
            column,
            justify="right" if column else "left",
            min_width=max(min(widest, _WIDEST), *map(len, column.split()), 1),
        )
    for line in lines:
        table.add_row(*(escape(line.get(column, "")) for column in columns(lines)))
    return table


def _remarks(result: Result) -> Iterator[str]:
    if any(row.is_bound for row in result.rows):
        yield "Bounds of GPUs from their datasheets, not measured: ctclip bench report shows them."
    if any(row.times_ms and row.times_ms.n < FEW for row in result.rows):
        yield f"n < {FEW}: p99 is little more than the slowest run."
    machine = result.machine
    if machine["load_before"] > _BUSY * machine["cores"]:
        yield (
            f"This machine was busy before ({machine['load_before']:.1f} of {machine['cores']} "
            "cores): these times are too long by what else it did."
        )
    yield from map(escape, result.notes)
