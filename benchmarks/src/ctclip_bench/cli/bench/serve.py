"""`ctclip bench serve`: how fast a server answers, after it has been shown to answer rightly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ctclip_bench.cli.subject import (
    add_output_options,
    add_subject_options,
    at_least,
    check_together,
    numbers,
    one_of,
    read_scan_list,
    read_subject,
    write,
)
from ctclip_client.cli.connection import read_connection
from ctclip_client.cli.flag_values import seconds
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK, InvalidInput
from ctclip_client.system.signals import termination_interrupts

SUMMARY = "Measure a server under load, with real CTs, by LoadGen and by several clients."
SCENARIOS = ("SingleStream", "Offline", "Server")
_VARIATIONS = 2
_LONGEST_ON_CPU_S = 300
GONE = {
    "--concurrency": "it is --clients now",
    "--batch": "ctclip bench graphs measures the vision model alone",
    "--texts": "ctclip bench growth --axes prompts measures sentences",
    "--rate": "--scenario Server searches the rate now",
    "--level-s": "it is --limit-s now",
    "--warmup": "the verdict's own requests warm the server up",
}
"""Flags of the load generator that was here before -> what to use."""


class _Gone(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, _n: Any, _v: Any, flag: Any = None) -> None:
        parser.error(f"{flag} is gone: {GONE[flag]}")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = (
        "Without --url the embedded Triton is started over the repository and stopped at the end. "
        "Exit code 1: the answers are not the reference's, and nothing was timed, or an answer "
        "under load was another one; 4: the server failed, and what was left was not tried."
    )
    add_subject_options(parser, "a server that runs already")
    parser.add_argument(
        "--variations", type=at_least(0), metavar="N",
        help=f"of the public CT ({_VARIATIONS} if not given)",
    )  # fmt: skip
    load = parser.add_argument_group("load")
    load.add_argument(
        "--scenario", type=one_of(SCENARIOS), metavar="LIST",
        help="of MLPerf Inference, by its own LoadGen and with our own counts: "
        f"{','.join(SCENARIOS)} (without it the first two, on a GPU all)",
    )  # fmt: skip
    load.add_argument(
        "--clients", type=numbers, default="1,4", metavar="LIST",
        help="at once, each waiting for its answer",
    )  # fmt: skip
    load.add_argument(
        "--requests", type=at_least(1), default=100, metavar="N", help="at most, for each row"
    )
    load.add_argument(
        "--limit-s", type=seconds, default=60.0, metavar="S",
        help=f"at most, for each row; no more than {_LONGEST_ON_CPU_S} on a CPU",
    )  # fmt: skip
    load.add_argument(
        "--perf-analyzer", type=Path, metavar="DIR",
        help="only write the scans there as Triton's perf_analyzer takes them, and print its "
        "command",
    )  # fmt: skip
    add_output_options(parser)
    for flag in GONE:
        parser.add_argument(flag, action=_Gone, help=argparse.SUPPRESS)


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Judge, measure, write, print."""
    from ctclip_bench.load.serve import Measurement, Plan
    from ctclip_bench.load.session import session
    from ctclip_bench.results.files import check_folder

    check_together(args)
    if args.scans and args.variations is not None:
        raise InvalidInput(
            "--variations are of the public CT, --scans names others.", "Leave one out."
        )
    variations = _VARIATIONS if args.variations is None else args.variations
    if args.perf_analyzer is not None:
        return _for_perf_analyzer(args, variations)
    if args.url is None:  # the embedded Triton computes on the CPU
        _check_limit(args.limit_s)
    check_folder(args.out)
    inputs = read_subject(args, variations)
    with session(inputs, args.config_name, args.timeout_s) as found:
        if not found.on_gpu:
            _check_limit(args.limit_s)
        scenarios = args.scenario or SCENARIOS[: 3 if found.on_gpu else 2]
        measurement = Measurement(found, Plan(scenarios, args.clients, args.requests, args.limit_s))
        result = measurement.run()
    path = write(result, args)
    if (error := measurement.error) is not None:
        error.remedy = f"{error.remedy} What was measured before: {path}".strip()
        raise error
    return EXIT_OK if result.passed else EXIT_CHECK_FAILED


def _check_limit(limit_s: float) -> None:
    if limit_s > _LONGEST_ON_CPU_S:
        raise InvalidInput(
            f"--limit-s: got {limit_s:g}, expected at most {_LONGEST_ON_CPU_S} on a CPU.",
            "Five minutes for each part say enough of a CPU.",
        )


def _for_perf_analyzer(args: argparse.Namespace, variations: int) -> int:
    from ctclip_bench.load.perf_analyzer import commands, write_input
    from ctclip_client.system.terminal import command_line

    volumes = (scan.volume() for scan in read_scan_list(args, variations))
    path = write_input(volumes, args.perf_analyzer)
    if args.url is None:
        print(command_line("ctclip", "serve", "--repository", args.repository))
    connection = read_connection(args, args.url or "localhost:8001")
    for line in commands(path, connection, args.clients, args.requests):
        print(line)
    return EXIT_OK
