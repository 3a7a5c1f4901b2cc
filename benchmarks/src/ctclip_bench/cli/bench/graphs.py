"""`ctclip bench graphs`: every graph alone, in each runtime at hand, beside its peers."""

from __future__ import annotations

import argparse
import sys

from ctclip_bench.cli.subject import (
    add_output_options,
    add_release_options,
    at_least,
    check_together,
    one_of,
    read_scan_list,
    write,
)
from ctclip_client.cli.flag_values import seconds
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK, InvalidInput
from ctclip_client.system.signals import termination_interrupts

SUMMARY = "Time every graph in PyTorch and in each runtime that is installed."
_GRAPHS = ("vision", "text", "preprocess", "score", "findings", "relevance", "classfine")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = (
        "A run that answers otherwise than the reference is not timed: exit code 1. What cannot "
        "run here is a line that says why, and no failure. With --against, PyTorch is timed, too."
    )
    add_release_options(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--graphs", type=one_of(_GRAPHS), metavar="LIST",
        help=f"of {','.join(_GRAPHS)} (all that the release has)",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=at_least(1), default=100, metavar="N",
        help="at most, of one run of each in turn, for each graph",
    )  # fmt: skip
    parser.add_argument(
        "--limit-s", type=seconds, default=60.0, metavar="S",
        help="a graph's last round begins before so many seconds are over",
    )  # fmt: skip
    parser.add_argument(
        "--upstream", type=at_least(1), nargs="?", const=sys.maxsize, default=0, metavar="N",
        help="also from a file to the findings: the graphs, PyTorch run well, and PyTorch as "
        "upstream's zero-shot script runs it, which encodes the volume again for each finding "
        "(minutes; N: for the first N of them)",
    )  # fmt: skip
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True,
        help="also torch.compile (a minute or more to compile; it needs g++ on a CPU)",
    )  # fmt: skip
    add_output_options(parser)


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Judge, measure, write, print."""
    from ctclip_bench.graphs.measure import Plan, measure
    from ctclip_bench.parity.inputs import read_inputs
    from ctclip_bench.results.files import check_folder
    from ctclip_client.contract import CLASSFINE
    from ctclip_client.system.progress import Stages

    check_together(args)
    if args.upstream and args.against is None:
        raise InvalidInput(
            "--upstream runs the reference: it needs --against and --text-model.",
            "Name the checkpoint of the export and its text model, or leave --upstream out.",
        )
    check_folder(args.out)
    scans = read_scan_list(args, variations=1)
    inputs = read_inputs(args.repository, scans, args.against, args.text_model)
    graphs = args.graphs or (
        _GRAPHS if CLASSFINE.name in inputs.members.steps else _GRAPHS[:-1]
    )  # fmt: skip
    plan = Plan(
        args.device, graphs, args.rounds, args.limit_s, args.compile,
        min(args.upstream, len(inputs.release.findings)),
    )  # fmt: skip
    about = "" if args.scans else "public chest CT and a variation"
    with Stages() as stages:
        result = measure(inputs, plan, stages, scans=about)
    write(result, args)
    return EXIT_OK if result.passed else EXIT_CHECK_FAILED
