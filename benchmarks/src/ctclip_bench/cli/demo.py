"""`ctclip demo`: prove on one machine, without weights, that the whole path works."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ctclip_client.errors import InvalidInput
from ctclip_client.system.signals import termination_interrupts

if TYPE_CHECKING:
    from ctclip_bench.demo.run import DemoResult
    from ctclip_client.cli.predictions import Prediction

SUMMARY = "Run the whole path on a real CT, with a checkpoint of RANDOM WEIGHTS."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--small", action="store_true", help="a small geometry: under a minute instead of two"
    )
    size.add_argument(
        "--many-tokens", action="store_true",
        help="fit the codebook to 110,592 tokens, as a checkpoint needs on which lower precisions "
        "are judged; takes minutes longer",
    )  # fmt: skip
    parser.add_argument(
        "--folder", type=Path, default=Path("build/demo"), metavar="DIR",
        help="where the CT, the checkpoint and the repository are kept",
    )  # fmt: skip


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Run the demo and print what it found."""
    from ctclip_bench.demo.run import run_demo
    from ctclip_bench.demo.sizes import MANY_TOKENS, PUBLISHED, SMALL
    from ctclip_client.cli.reports import Reports
    from ctclip_client.system.progress import Stages

    try:
        args.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"--folder: cannot make {args.folder}: {error.strerror or error}.",
            "Name a folder that you may write to.",
        ) from error
    published = MANY_TOKENS if args.many_tokens else PUBLISHED
    name, demo = ("small", SMALL) if args.small else ("published", published)
    report = args.folder / name / "report.html"
    with Stages() as stages:
        result = run_demo(demo, args.folder / name, stages)
        found = _prediction(result)
        with stages.stage("Report: a page to look at"):
            Reports(report, None, None).write(report, found, result.volume, result.scores.relevance)
    _show(result, found, stages.timings_ms)
    print(f"\nTo look at, in a browser: {report}")
    return 0


def _prediction(result: DemoResult) -> Prediction:
    from ctclip_client.cli.predictions import Prediction
    from ctclip_client.coverage import coverage_notes

    volume = result.volume
    geometry, _ = result.scores.provenance.geometry()
    return Prediction(
        str(result.scan), result.scores, volume.spacing_mm, volume.rescale, volume.source,
        result.read_ms,
        coverage=coverage_notes(volume.voxels.shape, volume.spacing_mm, geometry),
    )  # fmt: skip


def _show(result: DemoResult, found: Prediction, stages_ms: dict[str, float]) -> None:
    from rich.console import Console

    from ctclip_client.cli.tables import TablePrinter, print_table

    console = Console()
    console.print()
    print_table(console, _parity_table(result))
    print_table(console, _time_table(result, stages_ms))
    usage = result.usage
    margins = ", ".join(f"p{p} {m:.4f}" for p, m in usage.margin_percentiles.items())
    console.print(
        f"Codebook of RANDOM WEIGHTS, fitted to {usage.fitted_tokens:,} tokens. On a variation of "
        f"the CT that it was not fitted to, {usage.tokens:,} tokens use "
        f"{usage.used:,} codes, perplexity {usage.perplexity:,.0f}; best cosine minus second best: "
        f"{margins}.\n",
        highlight=False,
    )
    printer = TablePrinter(sys.stdout)
    printer.show(found)
    printer.close()


def _parity_table(result: DemoResult) -> Table:
    from ctclip_export.parity.judge import BOUNDS

    table = _table("Parity with PyTorch, float32", "model", "largest difference of")
    table.add_column("", justify="right")
    table.add_column("allowed", justify="right")
    for found in result.agreements:
        name = found.model.removeprefix("ctclip_")
        table.add_row(name, found.quantity, f"{found.measured:.1e}", found.allowed)
    served, bounds = result.parity, BOUNDS["fp32"]
    for quantity, measured, allowed in (
        ("1 − cosine of the embedding", 1 - (served.cosine or 0), f"{1 - bounds.cosine:.0e}"),
        ("LOGITS", served.logit_difference or 0, ""),
        ("PROBABILITIES", served.probability_difference or 0, f"{bounds.probability:.0e}"),
    ):
        table.add_row("served", quantity, f"{measured:.1e}", allowed)
    return table


def _time_table(result: DemoResult, stages_ms: dict[str, float]) -> Table:
    table = _table("Time", "stage")
    table.add_column("seconds", justify="right")
    for stage, milliseconds in stages_ms.items():
        table.add_row(stage, f"{milliseconds / 1000:.1f}")
    for model, milliseconds in result.server_ms.items():
        table.add_row(f"  inside Triton: {model}", f"{milliseconds / 1000:.2f}")
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD)
