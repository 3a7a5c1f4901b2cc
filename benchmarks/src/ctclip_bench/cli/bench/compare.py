"""`ctclip bench compare`: what got slower between two kept results."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK

if TYPE_CHECKING:
    from ctclip_bench.results.compare import Change

SUMMARY = "Say what got slower between two results, beyond the noise; exit code 1 if something did."
_BAD = ("slower", "wrong", "gone")
_STYLES = {"slower": "red", "wrong": "bold red", "gone": "red", "faster": "green"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = (
        "A time is slower where its median is 5 % above the other's, above the other's p90, and "
        "its least is above the other's least, of three runs at least; a rate (scans a second) "
        "where it is 10 % below. "
        "Exit code 1: something is slower, wrong (its parity no longer passes) or gone."
    )
    parser.add_argument("before", type=Path, metavar="BEFORE.json")
    parser.add_argument("after", type=Path, metavar="AFTER.json")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Read both, compare, print."""
    from ctclip_bench.results.compare import compare, different_machines
    from ctclip_bench.results.files import read

    before, after = read(args.before), read(args.after)
    changes = compare(before, after)
    differences = different_machines(before, after)
    if args.json:
        rows = [{**asdict(change), "ratio": change.ratio} for change in changes]
        print(json.dumps({"changes": rows, "differences": differences}, indent=1))
    else:
        _show(changes, differences)
    return EXIT_CHECK_FAILED if any(each.verdict in _BAD for each in changes) else EXIT_OK


def _show(changes: list[Change], differences: list[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ctclip_bench.results.cells import number
    from ctclip_client.cli.tables import print_table

    console = Console(width=None if sys.stdout.isatty() else 120)
    for line in differences:
        console.print(f"Not the same: {line}", style="yellow", markup=False, highlight=False)
    table = Table("", "", box=SIMPLE_HEAD)
    for title in ("before", "after", "ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for change in changes:
        ratio = "" if change.ratio is None else f"{change.ratio:.2f}"
        numbers = (number(change.before), number(change.after), ratio)
        verdict = Text(change.verdict, _STYLES.get(change.verdict, ""))
        what = f": {change.what}" if change.what else ""
        table.add_row(Text(change.table), Text(f"{change.name}{what}"), *numbers, verdict)
    print_table(console, table)
    counts = {word: sum(each.verdict == word for each in changes) for word in (*_BAD, "faster")}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    console.print(told or "Nothing changed beyond the noise.", highlight=False)
