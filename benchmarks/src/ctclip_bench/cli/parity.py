"""`ctclip parity`: compare every way of computing the answer with the reference."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_bench.cli.subject import (
    add_subject_options,
    check_together,
    files_read,
    read_subject,
)
from ctclip_client.cli.output_files import check_output_files
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK, InvalidInput
from ctclip_client.system.files import placed
from ctclip_client.system.signals import termination_interrupts

if TYPE_CHECKING:
    from ctclip_client.release.parity_runs import ParityRun

SUMMARY = (
    "Compare ONNX graphs, engines, Triton and client with PyTorch, step by step; exit code 1 if "
    "one differs. The result is kept in the repository: what failed is never promoted."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_subject_options(
        parser, "a server of this repository for the two steps that are served, "
        "not the embedded one",
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=Path, metavar="CSV",
        help="a row a scan (its file name first), a column a finding, as for ctclip evaluate: adds "
        "AUROC, which must reach 99.9 %% of the reference's",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page, too")


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Compare, print, and say by the exit code whether every step that ran has passed."""
    from ctclip_bench.parity.step_process import import_in_background

    import_in_background()
    from rich.console import Console

    from ctclip_bench.parity.labelled import labels_of, task_verdict
    from ctclip_bench.parity.report import as_json, as_page, auroc_lines, parity_table, reasons
    from ctclip_bench.parity.run import run_parity
    from ctclip_client.cli.tables import print_table
    from ctclip_client.release.parity_runs import read_runs
    from ctclip_client.system.progress import Stages
    from ctclip_export.samples.scans import VARIATIONS

    _check_options(args)
    inputs = read_subject(args, VARIATIONS)
    check_output_files({"--report": args.report}, files_read(args, inputs))
    read_runs(inputs.repository, inputs.version)  # a damaged list is said now, not in an hour
    findings = inputs.release.findings
    labels = None
    if args.labels:
        labels = labels_of(args.labels, [scan.name for scan in inputs.scans], findings)
    with Stages() as stages:
        result = run_parity(inputs, stages)
    task = None
    if labels is not None and result.probabilities is not None:
        task = labels.compare(*result.probabilities)
        result = result.with_verdict(task_verdict(task, len(result.scans)))
    _keep(result.as_run(args.url, sample=not args.scans), inputs.repository, inputs.version)
    unwritten = None
    if args.report:
        try:
            with placed(args.report) as file:
                file.write(as_page(result, task).encode("utf-8", "backslashreplace"))
        except OSError as error:  # a full disk must not cost what an hour has shown
            unwritten = error
            _note(f"--report: {args.report} cannot be written: {error.strerror or error}.")
    if args.json:
        json.dump(as_json(result, task), sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        print_table(console, parity_table(result))
        for line in (*auroc_lines(result, task), *reasons(result)):
            print(line)
    if unwritten is not None and result.passed:
        raise InvalidInput(
            f"--report: {args.report} cannot be written: {unwritten.strerror or unwritten}.",
            "Name a file in a folder that you may write to, on a disk with room.",
        ) from unwritten
    return EXIT_OK if result.passed else EXIT_CHECK_FAILED


def _check_options(args: argparse.Namespace) -> None:
    check_together(args)
    if args.labels and not args.scans:
        raise InvalidInput("--labels needs --scans.", "Name the folder of the labelled scans.")
    if args.url and args.config_name:
        raise InvalidInput(
            "--config-name is for the embedded server, --url names another.", "Leave one out."
        )


def _keep(run: ParityRun, repository: Path, version: int) -> None:
    """Append the run to the list beside the release, for `ctclip promote`."""
    from ctclip_client.release.parity_runs import append_run

    try:
        if not append_run(repository, version, run):
            _note("nothing could be compared on this machine: this run is not kept.")
    except OSError as error:
        failed = "" if run.passed else " A release that failed could still be promoted."
        _note(f"this run is not kept beside the release: {error.strerror}.{failed}")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
