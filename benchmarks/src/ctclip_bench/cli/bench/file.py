"""`ctclip bench file`: from a CT file to its findings, stages apart."""

from __future__ import annotations

import argparse
from pathlib import Path

from ctclip_bench.cli.subject import (
    add_output_options,
    add_subject_options,
    at_least,
    check_together,
    read_subject,
    write,
)
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK
from ctclip_client.system.signals import termination_interrupts

SUMMARY = "Measure each stage of a scan, from the .nii.gz file to the findings."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "scans", type=Path, nargs="*", metavar="SCAN", help="a NIfTI file (a public chest CT)"
    )
    add_subject_options(parser, "a server that runs already", scans=False)
    parser.add_argument(
        "--repeats", type=at_least(1), default=5, metavar="N",
        help="of each scan, by gRPC and by shared memory in turn, where there is any",
    )  # fmt: skip
    add_output_options(parser)


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Judge, measure, write, print."""
    from ctclip_bench.load.file import measure
    from ctclip_bench.load.session import session
    from ctclip_bench.results.files import check_folder

    check_together(args)
    check_folder(args.out)
    inputs = read_subject(args, 0, args.scans)
    with session(inputs, args.config_name, args.timeout_s) as found:
        result = measure(found, args.repeats)
    write(result, args)
    return EXIT_OK if result.passed else EXIT_CHECK_FAILED
