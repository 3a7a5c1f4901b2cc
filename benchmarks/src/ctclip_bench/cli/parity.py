"""`ctclip parity`: compare every way of computing the answer with the reference."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.cli.connection import add_connection_options, read_optional_connection
from ctclip_client.errors import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    CTClipError,
    InvalidInput,
    Unreadable,
)
from ctclip_client.system.files import destination, placed
from ctclip_client.system.signals import termination_interrupts

if TYPE_CHECKING:
    from ctclip_bench.parity.run import Climb
    from ctclip_bench.parity.steps import Job

SUMMARY = (
    "Climb the parity ladder: reference, ONNX, engines, Triton, client; exit code 1 if one fails. "
    "The verdict is kept beside the release: one that failed is never promoted."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKPOINT",
        help="the checkpoint of the export; without it the ladder starts at its ONNX graphs",
    )  # fmt: skip
    parser.add_argument("--text-model", type=Path, metavar="DIR", help="goes with --against")
    parser.add_argument(
        "--scans", type=Path, metavar="DIR",
        help="NIfTI files to compare on; without it a public chest CT and ten variations of it",
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=Path, metavar="CSV",
        help="a row a scan (first column: its file name), a column a finding: adds AUROC",
    )  # fmt: skip
    parser.add_argument(
        "--config-name", metavar="NAME",
        help="configs of the embedded server (default: the repository's own; openvino for bf16)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page, too")
    add_connection_options(
        parser,
        "a server of this repository for the two steps that are served (never taken from the "
        "environment); without it the embedded one",
        timeout_s=600.0,
    )


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Climb, print, and say by the exit code whether every rung that ran has passed."""
    from rich.console import Console

    from ctclip_bench.parity.labels import compare_auroc, read_labels
    from ctclip_bench.parity.report import (
        as_json,
        as_page,
        auroc_lines,
        ladder_table,
        reasons,
    )
    from ctclip_bench.parity.run import climb, read_job
    from ctclip_client.system.progress import Stages
    from ctclip_export.samples.sample_data import CHEST_CT, fetch, kept_folder
    from ctclip_export.samples.scans import sample_and_variations, scans_in

    _check_options(args)
    connection = read_optional_connection(args)
    if connection is not None:  # now, and not after an hour of references
        with connection.client() as client:
            client.check_ready()
    if args.scans:
        scans = scans_in(args.scans)
    else:
        scans = sample_and_variations(fetch(CHEST_CT, kept_folder()))
    job, release = read_job(
        args.repository, scans, args.against, args.text_model,
        connection=connection, config_name=args.config_name,
    )  # fmt: skip
    labels = None
    if args.labels:
        labels = read_labels(args.labels, [scan.name for scan in scans], release["findings"])
    with Stages() as stages:
        result = climb(job, release, stages)
    _keep(result, job, sample=not args.scans)
    areas = []
    if labels is not None and result.probabilities is not None:
        areas = compare_auroc(release["findings"], labels, *result.probabilities)
    unwritten = None
    if args.report:
        try:
            with placed(args.report) as file:
                file.write(as_page(result, areas).encode("utf-8"))
        except OSError as error:  # a full disk must not cost what an hour has shown
            unwritten = error
    if args.json:
        json.dump(as_json(result, areas), sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(ladder_table(result))
        for line in (*auroc_lines(result, areas), *reasons(result)):
            print(line)
    if unwritten is not None:
        raise _unwritable(args.report, unwritten) from unwritten
    return EXIT_OK if result.passed else EXIT_CHECK_FAILED


def _check_options(args: argparse.Namespace) -> None:
    if (args.against is None) != (args.text_model is None):
        raise InvalidInput("--against and --text-model go together.", "Give both, or neither.")
    if args.labels and not args.scans:
        raise InvalidInput("--labels needs --scans.", "Name the folder of the labelled scans.")
    if args.report and not args.report.absolute().parent.is_dir():
        raise InvalidInput(
            f"--report: no folder {args.report.absolute().parent}.", "Make it first."
        )
    if args.report:
        try:
            destination(args.report)
        except OSError as error:
            raise _unwritable(args.report, error) from error
    if args.url and args.config_name:
        raise InvalidInput(
            "--config-name is for the embedded server, --url names another.", "Leave one out."
        )


def _keep(result: Climb, job: Job, *, sample: bool) -> None:
    """Append the run to those beside the release, for `ctclip promote`."""
    from ctclip_client.release.parity_runs import append_run

    try:
        if not append_run(job.repository, int(job.version), result.record(sample=sample)):
            _note("nothing could be compared on this machine: this run is not kept.")
    except (OSError, Unreadable) as error:
        reason = error.cause if isinstance(error, Unreadable) else f"{error.strerror}."
        _note(
            f"this run is not kept beside the release: {reason} A release that failed it could "
            "still be promoted."
        )


def _unwritable(path: Path, error: OSError) -> CTClipError:
    return InvalidInput(
        f"--report: {path} cannot be written: {error.strerror or error}.",
        "Name a file in a folder that you may write to, on a disk with room.",
    )


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
