"""`ctclip bench report`: kept results as one page with plots."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_bench.cli.subject import RESULTS
from ctclip_client.errors import EXIT_OK, InvalidInput

if TYPE_CHECKING:
    from ctclip_bench.results.result import Result

SUMMARY = "Make one HTML page, with plots, of kept results."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "results", nargs="*", type=Path, default=[RESULTS], metavar="PATH",
        help="JSON files of ctclip bench, or folders of them; of a folder, the newest of each "
        "measurement",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("bench.html"), metavar="F.html", help="the page"
    )


def run(args: argparse.Namespace) -> int:
    """Read, draw, write."""
    from ctclip_bench.results.files import newest, read
    from ctclip_bench.results.page import page
    from ctclip_client.cli.output_files import check_output_files
    from ctclip_client.system.files import placed

    found: list[tuple[Path, Result]] = []
    for path in args.results:
        found += newest(path) if path.is_dir() else [(path, read(path))]
    check_output_files({"--out": args.out}, [("a result", path) for path, _ in found])
    if not found:
        raise InvalidInput(
            f"{args.results[0]}: there is no result of ctclip bench.",
            "Measure first: ctclip bench.",
        )
    with placed(args.out) as file:
        file.write(page([(path.name, result) for path, result in found]).encode())
    print(f"Written: {args.out}")
    return EXIT_OK
