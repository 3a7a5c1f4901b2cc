"""`ctclip build-engines`: TensorRT engines of an exported repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ctclip_client.system.signals import termination_interrupts

if TYPE_CHECKING:
    from ctclip_export.engines.build import BuiltEngine

SUMMARY = "Build TensorRT engines from a repository's graphs, each with a record of its origin."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DIR", help="written by ctclip export"
    )
    parser.add_argument(
        "--target", choices=("tensorrt", "tensorrt-rtx"), required=True,
        help="tensorrt: plans for Triton, built on the GPU that will serve; tensorrt-rtx: for RTX "
        "workstations, and to check every graph without a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--compute-capability", metavar="X.Y",
        help="architecture to compile for with tensorrt-rtx (default: 8.0, as of A100)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="where the engines go; with tensorrt by default beside their graphs",
    )  # fmt: skip


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Build, and say what became of the graphs."""
    from ctclip_client.errors import InvalidInput
    from ctclip_client.system.progress import Stages
    from ctclip_export.engines.build import build_engines
    from ctclip_export.engines.target import TARGETS

    target = TARGETS[args.target]
    try:
        with Stages() as stages:
            engines = build_engines(
                args.repository, target,
                compute_capability=args.compute_capability, out=args.out, stages=stages,
            )  # fmt: skip
    except OSError as error:
        option, folder = ("--out", args.out) if args.out else ("--repository", args.repository)
        raise InvalidInput(
            f"{option}: cannot write below {folder} ({error.strerror or error}).",
            "Name a folder on a disk with room that you may write to; nothing was placed.",
        ) from error
    _report(engines)
    if target.builds_on_gpu:
        print("Not compared with the reference yet: make gpu-check")
    else:
        print("NOT RUN: no GPU took part; parity of these engines is unknown.")
    return 0


def _report(engines: Sequence[BuiltEngine]) -> None:
    from rich.console import Console

    from ctclip_client.cli.tables import print_table

    first = engines[0].record
    table = Table(
        title=f"TensorRT {first.tensorrt_version}, {first.gpu_name or 'no GPU'}, compute "
        f"capability {first.compute_capability}",
        title_justify="left", box=SIMPLE_HEAD,
    )  # fmt: skip
    table.add_column("engine")
    for column in ("precision", "attention fused", "products", "GPU memory"):
        table.add_column(column, justify="right")
    table.add_column("", overflow="fold")
    for engine in engines:
        layers = engine.record.layers
        products = ", ".join(f"{n} {dtype}" for dtype, n in layers.get("products", {}).items())
        memory = layers.get("activation_bytes", 0) + layers.get("weights_bytes", 0)
        blocks = layers.get("attention_blocks")
        table.add_row(
            engine.model,
            engine.record.precision,
            f"{layers['attention_fused']} of {blocks}" if blocks else "",
            products,
            f"{memory / 2**20:,.0f} MiB" if layers else "not told",
            f"built: {engine.changed}" if engine.changed else "kept: it matches",
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    print_table(console, table)
    for engine in engines:
        if engine.report is not None and "float16" in str(engine.report.products):
            names = ", ".join(engine.report.products.get("float32", ())) or "none"
            print(f"{engine.model}, products in float32: {names}")
