"""`ctclip bench graphs`: every graph alone, in each runtime at hand, beside its peers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_bench.cli.subject import add_output_options, check_together
from ctclip_client.cli.flag_values import seconds
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK, InvalidInput
from ctclip_client.system.signals import termination_interrupts

if TYPE_CHECKING:
    from ctclip_bench.graphs.measure import Measured, Plan
    from ctclip_bench.parity.inputs import ParityInputs
    from ctclip_bench.results.result import Result

SUMMARY = "Time every graph in each runtime at hand and PyTorch, in turns, against the roofline."
_GRAPHS = ("vision", "text", "preprocess", "score", "findings", "relevance")
_CLASSFINE = "classfine"
_VARIATIONS = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = (
        "A run that answers otherwise than the reference is not timed: exit code 1. What cannot "
        "run here is a line that says why, and no failure."
    )
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DIR", help="written by ctclip export"
    )
    parser.add_argument(
        "--against", type=Path, metavar="CHECKPOINT",
        help="the checkpoint of the export: PyTorch is the reference, and timed; without it, the "
        "repository's own graphs on the CPU are the reference",
    )  # fmt: skip
    parser.add_argument("--text-model", type=Path, metavar="DIR", help="goes with --against")
    parser.add_argument(
        "--scans", type=Path, metavar="DIR",
        help="NIfTI files; without it a public chest CT and a variation of it",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--graphs", type=_words, default=None, metavar="LIST",
        help=f"of {','.join((*_GRAPHS, _CLASSFINE))} (all that the release has)",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=_count, default=100, metavar="N",
        help="at most, of one run of each in turn, for each graph",
    )  # fmt: skip
    parser.add_argument(
        "--limit-s", type=seconds, default=60.0, metavar="S",
        help="a graph's last round begins before so many seconds are over",
    )  # fmt: skip
    parser.add_argument(
        "--upstream", type=_count, nargs="?", const=sys.maxsize, default=0, metavar="N",
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
    from rich.console import Console

    from ctclip_bench.graphs.measure import Plan, measure
    from ctclip_bench.graphs.table import show
    from ctclip_bench.results.files import check_folder, keep
    from ctclip_client.contract import CLASSFINE
    from ctclip_client.system.progress import Stages

    check_together(args)
    if args.upstream and args.against is None:
        raise InvalidInput(
            "--upstream runs the reference: it needs --against and --text-model.",
            "Name the checkpoint of the export and its text model, or leave --upstream out.",
        )
    check_folder(args.out)
    inputs = _inputs(args)
    graphs = args.graphs or (
        *_GRAPHS, *([_CLASSFINE] if CLASSFINE.name in inputs.members.steps else []),
    )  # fmt: skip
    plan = Plan(
        args.device, graphs, args.rounds, args.limit_s, args.compile,
        min(args.upstream, len(inputs.release.findings)),
    )  # fmt: skip
    with Stages() as stages:
        found = measure(inputs, plan, stages)
    result = _result(inputs, plan, found, sample=args.scans is None)
    path = keep(result, args.out)
    if args.json:
        print(path.read_text(encoding="utf-8"), end="")
    else:
        console = Console(width=None if sys.stdout.isatty() else 140)
        show(console, result)
        console.print(f"Written: {path}", highlight=False, soft_wrap=True)
    return EXIT_OK if result.passed else EXIT_CHECK_FAILED


def _inputs(args: argparse.Namespace) -> ParityInputs:
    from ctclip_bench.parity.inputs import read_inputs
    from ctclip_export.samples.sample_data import CHEST_CT, fetch, kept_folder
    from ctclip_export.samples.scans import sample_and_variations, scans_in

    if args.scans:
        scans = scans_in(args.scans)
    else:
        scans = sample_and_variations(fetch(CHEST_CT, kept_folder()), _VARIATIONS)
    return read_inputs(args.repository, scans, args.against, args.text_model)


def _result(inputs: ParityInputs, plan: Plan, found: Measured, *, sample: bool) -> Result:
    from ctclip_bench.results.files import without_name
    from ctclip_bench.results.result import Result

    release = inputs.release
    subject = {
        **without_name(release.content), "random_weights": release.checkpoint.random_weights,
    }  # fmt: skip
    chosen = {
        "device": plan.device, "graphs": list(plan.graphs), "rounds": plan.rounds,
        "limit_s": plan.limit_s, "compile": plan.compiled, "upstream_findings": plan.upstream,
        "threads": found.threads, "against": found.subject.against,
        "scans": "public chest CT and a variation" if sample else f"{len(inputs.scans)} files",
        "shapes_zxy": [list(volume.voxels.shape) for volume in found.subject.volumes],
    }  # fmt: skip
    return Result("graphs", found.passed, subject, chosen, found.rows, found.verdicts, found.notes)


def _words(text: str) -> tuple[str, ...]:
    every = (*_GRAPHS, _CLASSFINE)
    found = tuple(dict.fromkeys(text.split(",")))
    for word in found:
        if word not in every:
            raise argparse.ArgumentTypeError(f"got {word!r}, expected some of {','.join(every)}")
    return found


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number, at least 1")
    return int(text)
