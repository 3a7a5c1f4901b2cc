"""`ctclip bench`: how fast a server answers, after it has been shown to answer rightly."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ctclip_client.cli.connection import add_connection_options, read_optional_connection
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK, EXIT_SOME_FAILED
from ctclip_client.system.signals import termination_interrupts

if TYPE_CHECKING:
    from ctclip_bench.load.measure import Measurement, Plan
    from ctclip_bench.parity.inputs import ParityInputs
    from ctclip_export.samples.scans import Scan

SUMMARY = "Measure latency and throughput of a server with real CTs, parity verdict first."
RESULTS = Path("benchmarks/results")

_N = TypeVar("_N", int, float)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = (
        "Without --url the embedded Triton is started over the repository and stopped at the end. "
        "Exit code 1: the answers are not the reference's, and nothing was timed, or a level could "
        "not be measured; 3: some requests failed; 4: the server stopped answering, and what was "
        "left was not tried."
    )
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DIR", help="written by ctclip export"
    )
    parser.add_argument(
        "--config-name", metavar="NAME",
        help="variant (MODEL/configs/NAME.pbtxt) to start, or that the server at --url runs",
    )  # fmt: skip
    judged = parser.add_argument_group("parity")
    judged.add_argument(
        "--against", type=Path, metavar="CHECKPOINT",
        help="the checkpoint of the export: compare with PyTorch; without it, with the "
        "repository's own graphs in ONNX Runtime",
    )  # fmt: skip
    judged.add_argument("--text-model", type=Path, metavar="DIR", help="goes with --against")
    scans = parser.add_argument_group("scans")
    scans.add_argument(
        "--scans", type=Path, metavar="DIR",
        help="NIfTI files; without it a public chest CT and variations of it",
    )  # fmt: skip
    scans.add_argument(
        "--variations", type=_number(int, 0), default=2, metavar="N", help="of the public CT"
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
        "--level-s", type=_number(float, 0.001), default=60.0, metavar="S",
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
    add_connection_options(
        parser, "a server that runs already (never taken from the environment)", timeout_s=600.0
    )


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Judge, measure, write, print."""
    from ctclip_bench.load import record
    from ctclip_bench.load.load import Amount
    from ctclip_bench.load.measure import Plan
    from ctclip_bench.parity.inputs import read_inputs
    from ctclip_client.errors import InvalidInput, Unavailable

    if (args.against is None) != (args.text_model is None):
        raise InvalidInput("--against and --text-model go together.", "Give both, or neither.")
    connection = read_optional_connection(args)
    record.check_folder(args.out)
    amount = Amount(args.requests, args.warmup, args.level_s)
    plan = Plan(args.concurrency, args.batch, args.texts, args.rate, amount)
    inputs = read_inputs(
        args.repository, _scans(args), args.against, args.text_model,
        connection=connection, config_name=args.config_name,
    )  # fmt: skip
    found, content = _measure(args, inputs, plan)
    path = record.free_path(args.out / record.file_name(content))
    record.write_json(content, path)
    if args.json:
        print(path.read_text(encoding="utf-8"), end="")
    else:
        _show(found, content, path)
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

    from ctclip_bench.load.measure import Subject, measure
    from ctclip_bench.load.memory import gpu_memory
    from ctclip_bench.load.record import as_json
    from ctclip_bench.load.server import describe_server, embedded, running
    from ctclip_client.system.progress import Stages

    load_before = os.getloadavg()[0]
    with Stages() as stages, ExitStack() as stack:
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
        volumes = []
        with stages.stage("Scans: read", len(inputs.scans)) as advance:
            for scan in inputs.scans:
                volumes.append(scan.volume())
                advance(1)
        subject = Subject(server, inputs, volumes)
        found = measure(subject, plan, stages, gpu_before_bytes)
        gpu = server.gpu()
    about = {
        "release": inputs.release.content,
        "config": config_name or "default",
        "server": described,
    }
    about["load_before"] = round(load_before, 2)
    return found, as_json(found, plan, volumes, about, gpu)


def _show(found: Measurement, content: Mapping[str, Any], path: Path) -> None:
    from rich.console import Console

    from ctclip_bench.load.table import show

    console = Console(width=None if sys.stdout.isatty() else 120)
    show(console, found, content)
    console.print(f"Written: {path}", highlight=False, soft_wrap=True)


def _scans(args: argparse.Namespace) -> list[Scan]:
    from ctclip_export.samples.sample_data import CHEST_CT, fetch, kept_folder
    from ctclip_export.samples.scans import sample_and_variations, scans_in

    if args.scans:
        return scans_in(args.scans)
    return sample_and_variations(fetch(CHEST_CT, kept_folder()), args.variations)


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
