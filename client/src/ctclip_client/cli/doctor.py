"""`ctclip doctor`: examine a checkpoint, a model repository, a CT file or a server."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.cli.connection import (
    URL_VARIABLE,
    add_connection_options,
    given_options,
    read_connection,
    url_of_environment,
)
from ctclip_client.cli.flag_values import (
    add_reading_options,
    flag,
    is_given,
    reading_options,
    spacing_mm,
    volume_shape,
)
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK, InvalidInput

if TYPE_CHECKING:
    from ctclip_client.doctor.inspectors import DoctorOptions
    from ctclip_client.doctor.subject import Subject

SUMMARY = "Examine a checkpoint, a model repository, a CT file or a server, and say what is wrong."

_BELONGS = {
    "checkpoint": ("text_model", "volume_shape", "target_spacing"),
    "ct": ("as_stored", "spacing", "slope", "intercept", "series", "metadata", "any_region"),
    "server": ("repository", "timeout_s"),
}
_TIMEOUT_S = 60.0
_NAMES = {"checkpoint": "a checkpoint", "ct": "a CT", "server": "a server"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "target", nargs="?", metavar="PATH|URL",
        help="a checkpoint, a CT file, a model repository, or host:port of a server's gRPC service "
        f"(where it is not given: --url, or {URL_VARIABLE})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    checkpoint = parser.add_argument_group("for a checkpoint")
    checkpoint.add_argument(
        "--text-model",
        type=Path,
        metavar="DIR",
        help="its text model: config.json, and vocab.txt or tokenizer.json",
    )
    checkpoint.add_argument(
        "--volume-shape", type=volume_shape, metavar="ZxXxY",
        help="voxels that it was trained on (240x480x480 if not given)",
    )  # fmt: skip
    checkpoint.add_argument(
        "--target-spacing", type=spacing_mm, metavar="Z,X,Y",
        help="their size in mm (1.5,0.75,0.75 if not given)",
    )  # fmt: skip
    add_reading_options(parser, "for a CT file, as in ctclip predict")
    server = parser.add_argument_group("for a server")
    server.add_argument(
        "--repository", type=Path, metavar="DIR",
        help="the repository that it serves: compare its answers with those recorded there",
    )  # fmt: skip
    add_connection_options(
        parser, "the server to examine, in place of PATH|URL",
        timeout_help=f"for each request ({_TIMEOUT_S:g} if not given)",
    )  # fmt: skip
    parser.set_defaults(timeout_s=None)  # told apart: it is refused for what is no server


def run(args: argparse.Namespace) -> int:
    """Examine the target and print the report; 1 if a check failed.

    Raises:
        CTClipError: the target is nothing that can be examined, or a server does not answer.
    """
    from ctclip_client.doctor.examine import examine
    from ctclip_client.doctor.render import render
    from ctclip_client.doctor.report import Verdict

    subject = _subject(args)
    _check_options(args, subject)
    options = _options(args, subject)
    with options.stages:
        report = examine(subject, options)
    if args.json:
        # ASCII, because names of files need not be text.
        print(json.dumps(report.to_json(), indent=1, allow_nan=False))
    else:
        render(report, sys.stdout)
    return EXIT_CHECK_FAILED if report.verdict is Verdict.FAIL else EXIT_OK


def _subject(args: argparse.Namespace) -> Subject:
    from ctclip_client.doctor.subject import Subject, recognise

    if args.target is not None and args.url is not None:
        raise InvalidInput(
            f"got {args.target} and --url {args.url}, expected one of them.", "Leave one out."
        )
    if args.target is not None:
        return recognise(args.target)
    url, named_by = args.url or url_of_environment(), "--url" if args.url else URL_VARIABLE
    if url is None:
        raise InvalidInput(
            "there is nothing to examine.",
            f"Give a PATH or the URL of a server, or set {URL_VARIABLE}.",
        )
    return Subject("server", url, f"a server ({named_by})", address=url)


def _options(args: argparse.Namespace, subject: Subject) -> DoctorOptions:
    from ctclip_client.contract import PUBLISHED_GEOMETRY, Geometry
    from ctclip_client.doctor.inspectors import DoctorOptions

    connection = None
    if subject.kind == "server":
        args.tls = args.tls or subject.tls
        args.timeout_s = args.timeout_s or _TIMEOUT_S
        named_by = "url" if args.target else "--url" if args.url else URL_VARIABLE
        connection = read_connection(args, subject.address, named_by)
    return DoctorOptions(
        geometry=Geometry(
            args.volume_shape or PUBLISHED_GEOMETRY.volume_shape,
            args.target_spacing or PUBLISHED_GEOMETRY.target_spacing_mm,
        ),
        text_model=args.text_model,
        reading=reading_options(args),
        connection=connection,
        repository=args.repository,
    )


def _check_options(args: argparse.Namespace, subject: Subject) -> None:
    from ctclip_client.contract import CHECK

    given = [(option, "server") for option in given_options(args)]
    for kind, names in _BELONGS.items():
        given += [(flag(name), kind) for name in names if is_given(args, name)]
    for option, kind in given:
        if kind != subject.kind:
            raise InvalidInput(
                f"{option} is for {_NAMES[kind]}; {subject.target} was taken for "
                f"{subject.recognised_as}.",
                "Leave it out.",
            )
    for option, folder, holds in (
        ("--repository", args.repository, f"the models of ctclip export, {CHECK.name} among them"),
        ("--text-model", args.text_model, "config.json, and vocab.txt or tokenizer.json"),
    ):
        if folder is not None and not folder.is_dir():
            raise InvalidInput(f"{option}: {folder} is not a folder.", f"It should hold {holds}.")
    if args.repository is not None and not (args.repository / CHECK.name).is_dir():
        raise InvalidInput(
            f"--repository: {args.repository} has no {CHECK.name}: it is no repository of ctclip "
            "export.",
            "Give the repository that the server serves.",
        )
