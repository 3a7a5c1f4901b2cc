"""The release, reference, scans and server that `ctclip parity` and `ctclip bench` are about."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
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


def add_subject_options(parser: argparse.ArgumentParser, url_help: str) -> None:
    """The flags that both commands have."""
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DIR", help="written by ctclip export"
    )
    parser.add_argument(
        "--against", type=Path, metavar="CHECKPOINT",
        help="the checkpoint of the export: compare with PyTorch; without it, with the "
        "repository's own graphs",
    )  # fmt: skip
    parser.add_argument("--text-model", type=Path, metavar="DIR", help="goes with --against")
    parser.add_argument(
        "--scans", type=Path, metavar="DIR",
        help="NIfTI files; without it a public chest CT and variations of it",
    )  # fmt: skip
    parser.add_argument(
        "--config-name", metavar="NAME",
        help="configs (MODEL/configs/NAME.pbtxt) of the embedded server (default: the "
        "repository's own; openvino for bf16)",
    )  # fmt: skip
    add_connection_options(
        parser, f"{url_help} (never taken from the environment)", timeout_s=600.0
    )


def check_together(args: argparse.Namespace) -> None:
    """Raises: InvalidInput for a reference without its text model, or the other way round."""
    if (args.against is None) != (args.text_model is None):
        raise InvalidInput("--against and --text-model go together.", "Give both, or neither.")


def read_subject(args: argparse.Namespace, variations: int) -> ParityInputs:
    """What the flags name; without --scans the public CT and so many variations.

    Raises: InvalidInput, Unreadable; a server's errors if the one at --url is not ready.
    """
    from ctclip_bench.parity.inputs import read_inputs
    from ctclip_bench.parity.steps import check_server
    from ctclip_export.samples.sample_data import CHEST_CT, fetch, kept_folder
    from ctclip_export.samples.scans import sample_and_variations, scans_in
    from ctclip_server.repository import check_repository

    connection = read_optional_connection(args)
    if args.scans:
        scans = scans_in(args.scans)
    else:
        scans = sample_and_variations(fetch(CHEST_CT, kept_folder()), variations)
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
