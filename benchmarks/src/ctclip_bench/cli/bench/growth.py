"""`ctclip bench growth`: how the cost of an answer grows with what is asked."""

from __future__ import annotations

import argparse
from pathlib import Path

from ctclip_bench.cli.subject import (
    add_output_options,
    add_subject_options,
    at_least,
    check_together,
    one_of,
    read_subject,
    write,
)
from ctclip_client.cli.flag_values import seconds
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK
from ctclip_client.system.signals import termination_interrupts

SUMMARY = "Measure how time grows with slices, matrix, prompts, clients and scans."
AXES = {
    "slices": (64, 128, 300, 640, 1000, 1617),
    "matrix": (512, 768, 1024),
    "prompts": (2, 20, 200, 2000, 10_000),
    "clients": (1, 2, 4),
    "scans": (1, 5, 20),
}
"""slices, matrix: of the volume (matrix² in a slice). prompts: sentences, two for each finding.
clients: at once. scans: files of one run of ctclip predict, from its start to its end."""
_QUICK = {
    "slices": (20, 40, 80), "matrix": (32, 64), "prompts": (2, 8), "clients": (1, 2),
    "scans": (1, 2),
}  # fmt: skip
_SIZE, _QUICK_SIZE = (300, 512), (24, 48)
"""Slices and matrix where they are not the axis."""
_RUN_SLICES, _QUICK_RUN_SLICES = 320, 24
"""Of the files of a run."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_subject_options(parser, "a server that runs already", scans=False)
    parser.add_argument(
        "--scan", type=Path, metavar="FILE", help="what volumes are made of (a public chest CT)"
    )
    parser.add_argument(
        "--axes", type=one_of(tuple(AXES)), default=",".join(AXES), metavar="LIST",
        help="one at a time, the others at 300 slices of 512 × 512 (files of a run: 320)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=at_least(1), default=3, metavar="N", help="of each point")
    parser.add_argument(
        "--limit-s", type=seconds, default=120.0, metavar="S",
        help="for each point, and for each answer: what takes longer is not run, nor more of it",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="small volumes and few points: does it work at all?"
    )
    add_output_options(parser)


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Judge, measure, write, print."""
    from ctclip_bench.load import growth
    from ctclip_bench.load.session import session
    from ctclip_bench.results.files import check_folder

    check_together(args)
    check_folder(args.out)
    axes, size = (_QUICK, _QUICK_SIZE) if args.quick else (AXES, _SIZE)
    run_slices = _QUICK_RUN_SLICES if args.quick else _RUN_SLICES
    chosen = {axis: axes[axis] for axis in args.axes}
    plan = growth.Plan(chosen, *size, args.repeats, args.limit_s, run_slices)
    inputs = read_subject(args, 0, () if args.scan is None else (args.scan,))
    with session(inputs, args.config_name, args.timeout_s) as found:
        result = growth.measure(found, plan)
    write(result, args)
    return EXIT_OK if result.passed else EXIT_CHECK_FAILED
