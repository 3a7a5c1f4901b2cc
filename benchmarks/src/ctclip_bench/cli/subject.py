"""The release, reference, scans and server that `ctclip parity` and `ctclip bench` are about."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.cli.connection import (
    add_connection_options,
    connection_files,
    read_optional_connection,
)
from ctclip_client.errors import InvalidInput

if TYPE_CHECKING:
    from ctclip_bench.parity.inputs import ParityInputs
    from ctclip_bench.results.result import Result
    from ctclip_export.samples.scans import Scan

RESULTS = Path("benchmarks/results")


def add_subject_options(
    parser: argparse.ArgumentParser, url_help: str, *, scans: bool = True
) -> None:
    """The flags that all these commands have. scans: --scans, too."""
    add_release_options(parser, scans=scans)
    parser.add_argument(
        "--config-name", metavar="NAME",
        help="configs (MODEL/configs/NAME.pbtxt) of the embedded server (default: the "
        "repository's own; openvino for bf16)",
    )  # fmt: skip
    add_connection_options(
        parser, f"{url_help} (never taken from the environment)", timeout_s=600.0
    )


def add_release_options(parser: argparse.ArgumentParser, *, scans: bool = True) -> None:
    """Those of the release and its reference. scans: --scans, too."""
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DIR", help="written by ctclip export"
    )
    parser.add_argument(
        "--against", type=Path, metavar="CHECKPOINT",
        help="the checkpoint of the export: compare with PyTorch; without it, with the "
        "repository's own graphs",
    )  # fmt: skip
    parser.add_argument("--text-model", type=Path, metavar="DIR", help="goes with --against")
    if scans:
        parser.add_argument(
            "--scans", type=Path, metavar="DIR",
            help="NIfTI files; without it a public chest CT and variations of it",
        )  # fmt: skip


def check_together(args: argparse.Namespace) -> None:
    """Raises: InvalidInput for a reference without its text model, or the other way round."""
    if (args.against is None) != (args.text_model is None):
        raise InvalidInput("--against and --text-model go together.", "Give both, or neither.")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Where a measurement goes."""
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="where the JSON file goes"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON instead of tables")


def at_least(least: int) -> Callable[[str], int]:
    """For a flag that takes a number."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"got {text}, expected at least {least}")
        return value

    return parse


def numbers(text: str) -> tuple[int, ...]:
    """For a flag that takes several numbers: `1,4`."""
    return tuple(dict.fromkeys(at_least(1)(part) for part in text.split(",")))


def one_of(choices: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """For a flag that takes several words."""

    def parse(text: str) -> tuple[str, ...]:
        words = [word.strip() for word in text.split(",")]
        wrong = [word for word in words if word not in choices]
        if wrong:
            raise argparse.ArgumentTypeError(
                f"got {wrong[0]!r}, expected some of {','.join(choices)}"
            )
        return tuple(dict.fromkeys(words))

    return parse


def write(result: Result, args: argparse.Namespace) -> Path:
    """Keep a result below --out, and print it. Raises: InvalidInput where it cannot be kept."""
    from rich.console import Console

    from ctclip_bench.results.files import keep
    from ctclip_bench.results.show import show

    path = keep(result, args.out)
    if args.json:
        print(path.read_text(encoding="utf-8"), end="")
    else:
        console = Console(width=None if sys.stdout.isatty() else 140)
        show(console, result)
        console.print(f"Written: {path}", highlight=False, soft_wrap=True, markup=False)
    return path


def read_subject(
    args: argparse.Namespace, variations: int, paths: Sequence[Path] = ()
) -> ParityInputs:
    """What the flags name; without --scans or paths the public CT and so many variations.

    Raises: InvalidInput, Unreadable; a server's errors if the one at --url is not ready.
    """
    from ctclip_bench.parity.inputs import read_inputs
    from ctclip_bench.parity.steps import check_server
    from ctclip_server.repository import check_repository

    connection = read_optional_connection(args)
    scans = read_scan_list(args, variations, paths)
    inputs = read_inputs(
        args.repository, scans, args.against, args.text_model,
        connection=connection, config_name=args.config_name,
    )  # fmt: skip
    if connection is not None:  # now, and not after an hour of references
        with connection.client() as client:
            client.check_ready()
        check_server(inputs)
    else:
        check_repository(args.repository, inputs.config_name)
    return inputs


def read_scan_list(
    args: argparse.Namespace, variations: int, paths: Sequence[Path] = ()
) -> list[Scan]:
    """The scans of `read_subject`. Raises: InvalidInput, Unavailable."""
    from ctclip_export.samples.sample_data import CHEST_CT, fetch, kept_folder
    from ctclip_export.samples.scans import Scan, sample_and_variations, scans_in

    if paths:
        return [Scan(path) for path in paths]
    if getattr(args, "scans", None):
        return scans_in(args.scans)
    return sample_and_variations(fetch(CHEST_CT, kept_folder()), variations)


def files_read(args: argparse.Namespace, inputs: ParityInputs) -> Iterator[tuple[str, Path]]:
    """What each file is that these commands read, in words, and the file."""
    yield from ((f"the scan {scan.path.name}", scan.path) for scan in inputs.scans)
    for name in ("against", "labels"):
        if (file := getattr(args, name, None)) is not None:
            yield f"the file of --{name}", file
    yield from (("part of --repository", path) for path in args.repository.glob("*/**/*"))
    if args.text_model is not None:
        yield from (("part of --text-model", path) for path in args.text_model.iterdir())
    yield from connection_files(args)
