"""`ctclip bench`: how fast a server answers, after it has been shown to answer rightly."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ctclip_bench.cli.subject import add_subject_options, check_together, read_subject
from ctclip_client.cli.flag_values import seconds
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK, EXIT_SOME_FAILED, InvalidInput
from ctclip_client.system.signals import termination_interrupts

if TYPE_CHECKING:
    from ctclip_bench.load.measure import Measurement, Plan
    from ctclip_bench.parity.inputs import ParityInputs

SUMMARY = "Measure latency and throughput of a server with real CTs, parity verdict first."
RESULTS = Path("benchmarks/results")
_VARIATIONS = 2

_N = TypeVar("_N", int, float)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = (
        "Without --url the embedded Triton is started over the repository and stopped at the end. "
        "Exit code 1: the answers are not the reference's, and nothing was timed, or a level could "
        "not be measured; 3: some requests failed; 4: the server stopped answering, and what was "
        "left was not tried."
    )
    add_subject_options(parser, "a server that runs already")
    parser.add_argument(
        "--variations",
        type=_number(int, 0),
        metavar="N",
        help=f"of the public CT ({_VARIATIONS} if not given)",
    )
    load = parser.add_argument_group("load (lists such as 1,2,4; 0 leaves a part out)")
    load.add_argument(
        "--concurrency", type=_numbers(int), default="1,2,4,8", metavar="LIST",
        help="clients at once, each waiting for its answer, over the whole path",
    )  # fmt: skip
    load.add_argument(
        "--batch", type=_numbers(int), default="1,2,4,8", metavar="LIST",
        help="volumes at once for the vision model alone; what exceeds its largest batch goes as "
        "several requests at the same time",
    )  # fmt: skip
    load.add_argument(
        "--texts", type=_numbers(int), default="1,36,64", metavar="LIST",
        help="sentences in one request to the text encoder",
    )  # fmt: skip
    load.add_argument(
        "--rate", type=_numbers(float), default="0", metavar="LIST",
        help="scans a second that arrive whether the server is ready or not (Poisson): shows the "
        "queue that waiting clients hide",
    )  # fmt: skip
    load.add_argument(
        "--requests",
        type=_number(int, 1),
        default=100,
        metavar="N",
        help="measured, for each level",
    )
    load.add_argument(
        "--level-s", type=seconds, default=60.0, metavar="S",
        help="a level ends after so many seconds, if --requests are not reached by then",
    )  # fmt: skip
    load.add_argument(
        "--warmup", type=_number(int, 0), default=2, metavar="N",
        help="requests of each client before a level is timed",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="where the JSON file goes"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON instead of tables")


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Judge, measure, write, print."""
    from rich.console import Console

    from ctclip_bench.load import record
    from ctclip_bench.load.load import Amount
    from ctclip_bench.load.measure import Plan
    from ctclip_bench.load.table import show
    from ctclip_client.errors import Unavailable

    check_together(args)
    if args.scans and args.variations is not None:
        raise InvalidInput(
            "--variations are of the public CT, --scans names others.", "Leave one out."
        )
    record.check_folder(args.out)
    amount = Amount(args.requests, args.warmup, args.level_s)
    plan = Plan(args.concurrency, args.batch, args.texts, args.rate, amount)
    inputs = read_subject(args, _VARIATIONS if args.variations is None else args.variations)
    found, content = _measure(args, inputs, plan)
    path = record.free_path(args.out / record.file_name(content))
    record.write_json(content, path)
    if args.json:
        print(path.read_text(encoding="utf-8"), end="")
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        show(console, found, content)
        console.print(f"Written: {path}", highlight=False, soft_wrap=True)
    if found.right and found.gone_at:
        raise Unavailable(
            f"the server stopped answering at '{found.gone_at}'; nothing after it was tried.",
            f"Look into its log, start it again, and measure again. Written so far: {path}",
        )
    if not found.passed:
        return EXIT_CHECK_FAILED
    return EXIT_SOME_FAILED if found.failed_requests else EXIT_OK


def _measure(
    args: argparse.Namespace, inputs: ParityInputs, plan: Plan
) -> tuple[Measurement, dict[str, Any]]:
    from contextlib import ExitStack

    from ctclip_bench.load.measure import measure
    from ctclip_bench.load.memory import gpu_memory
    from ctclip_bench.load.record import as_json
    from ctclip_bench.load.server import describe_server, embedded, running
    from ctclip_client.system.progress import Stages

    load_before = os.getloadavg()[0]
    with Stages() as stages, ExitStack() as stack:
        volumes = []
        with stages.stage("Scans: read", len(inputs.scans)) as advance:
            for scan in inputs.scans:
                volumes.append(scan.volume())
                advance(1)
        gpu_before_bytes = None
        if inputs.connection is None:
            gpu_before_bytes = gpu_memory()
            with stages.stage("Triton: start and load all models"):
                server = stack.enter_context(
                    embedded(args.repository, inputs.config_name, args.timeout_s)
                )
        else:
            server = running(inputs.connection)
        config_name = args.config_name if args.url else inputs.config_name
        described = describe_server(server, args.repository, config_name)
        found = measure(server, inputs, volumes, plan, stages, gpu_before_bytes=gpu_before_bytes)
        gpu = server.gpu()
    about = {
        "release": inputs.release.content,
        "config": config_name or "default",
        "server": described,
        "load_before": round(load_before, 2),
    }
    return found, as_json(found, plan, volumes, about, gpu)


def _number(kind: type[_N], least: float) -> Callable[[str], _N]:
    def parse(text: str) -> _N:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a number") from None
        if not value >= least:
            raise argparse.ArgumentTypeError(f"got {text}, expected at least {least:g}")
        return value

    return parse


def _numbers(kind: type[_N]) -> Callable[[str], tuple[_N, ...]]:
    def parse(text: str) -> tuple[_N, ...]:
        one = _number(kind, 0)
        return tuple(value for value in map(one, text.split(",")) if value)

    return parse
