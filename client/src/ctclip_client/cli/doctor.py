"""`ctclip doctor`: examine a checkpoint, a model repository, a CT file or a server."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.cli.geometry_flags import spacing_mm, volume_shape
from ctclip_client.cli.program import EXIT_CHECK_FAILED, EXIT_OK
from ctclip_client.errors import InvalidInput

if TYPE_CHECKING:
    from ctclip_client.doctor.inspectors import Options
    from ctclip_client.doctor.subject import Subject

SUMMARY = "Examine a checkpoint, a model repository, a CT file or a server, and say what is wrong."

_BELONGS = {
    "text_model": ("--text-model", "checkpoint"),
    "volume_shape": ("--volume-shape", "checkpoint"),
    "target_spacing": ("--target-spacing", "checkpoint"),
    "as_stored": ("--as-stored", "ct"),
    "spacing": ("--spacing", "ct"),
    "slope": ("--slope", "ct"),
    "intercept": ("--intercept", "ct"),
    "repository": ("--repository", "server"),
    "timeout_s": ("--timeout-s", "server"),
    "root_certificates": ("--root-certificates", "server"),
    "header": ("--header", "server"),
}
_NAMES = {"checkpoint": "a checkpoint", "ct": "a CT", "server": "a server"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "target", metavar="PATH|URL",
        help="a checkpoint, a CT file, a model repository, or host:port of a server's gRPC service",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    checkpoint = parser.add_argument_group("for a checkpoint")
    checkpoint.add_argument(
        "--text-model", type=Path, metavar="DIR", help="its text model: config.json and vocab.txt"
    )
    checkpoint.add_argument(
        "--volume-shape", type=volume_shape, metavar="ZxXxY",
        help="voxels that it was trained on (240x480x480 if not given)",
    )  # fmt: skip
    checkpoint.add_argument(
        "--target-spacing", type=spacing_mm, metavar="Z,X,Y",
        help="their size in mm (1.5,0.75,0.75 if not given)",
    )  # fmt: skip
    scan = parser.add_argument_group("for a CT file, as in ctclip predict")
    scan.add_argument("--as-stored", action="store_true", help="do not reorient")
    scan.add_argument("--spacing", type=spacing_mm, metavar="Z,X,Y", help="mm, with --as-stored")
    scan.add_argument("--slope", type=float, help="HU = slope · stored + intercept")
    scan.add_argument("--intercept", type=float, help="goes with --slope")
    server = parser.add_argument_group("for a server")
    server.add_argument(
        "--repository", type=Path, metavar="DIR",
        help="the repository that it serves: compare its answers with those recorded there",
    )  # fmt: skip
    server.add_argument(
        "--timeout-s", type=float, metavar="S", help="for each request (60 if not given)"
    )
    server.add_argument(
        "--root-certificates", type=Path, metavar="FILE",
        help="PEM file of who may sign the server's certificate; grpcs:// takes the usual",
    )  # fmt: skip
    server.add_argument(
        "--header", type=_header, action="append", default=[], metavar="KEY=VALUE",
        help="sent with every call, for instance triton-grpc-protocol-statistics=WORD",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Examine the target and print the report; 1 if a check failed.

    Raises:
        CTClipError: the target is nothing that can be examined, or a server does not answer.
    """
    from ctclip_client.doctor.examine import examine
    from ctclip_client.doctor.render import render
    from ctclip_client.doctor.report import Verdict
    from ctclip_client.doctor.subject import recognise

    subject = recognise(args.target)
    _check_options(args, subject)
    options = _options(args)
    with options.stages:
        report = examine(subject, options)
    if args.json:
        # ASCII, because names of files need not be text.
        print(json.dumps(report.to_json(), indent=1, allow_nan=False))
    else:
        render(report, sys.stdout)
    return EXIT_CHECK_FAILED if report.verdict is Verdict.FAIL else EXIT_OK


def _options(args: argparse.Namespace) -> Options:
    from ctclip_client.contract import PUBLISHED_GEOMETRY, Geometry
    from ctclip_client.doctor.inspectors import Options

    return Options(
        geometry=Geometry(
            args.volume_shape or PUBLISHED_GEOMETRY.volume_shape,
            args.target_spacing or PUBLISHED_GEOMETRY.target_spacing_mm,
        ),
        text_model=args.text_model,
        as_stored=args.as_stored,
        spacing_mm=args.spacing,
        rescale=None if args.slope is None else (args.slope, args.intercept),
        timeout_s=60.0 if args.timeout_s is None else args.timeout_s,
        root_certificates=args.root_certificates,
        headers=dict(args.header),
        repository=args.repository,
    )


def _check_options(args: argparse.Namespace, subject: Subject) -> None:
    for name, (flag, kind) in _BELONGS.items():
        value = getattr(args, name)
        given = value is not None and value is not False and value != []  # 0 is a slope, too
        if given and kind != subject.kind:
            raise InvalidInput(
                f"{flag} is for {_NAMES[kind]}; {subject.target} was taken for "
                f"{subject.recognised_as}.",
                "Leave it out.",
            )
    if args.repository is not None and not args.repository.is_dir():
        raise InvalidInput(f"--repository: {args.repository} is not a folder.")
    if (args.slope is None) != (args.intercept is None):
        raise InvalidInput(
            "--slope and --intercept belong together, one is missing.",
            "HU = slope · stored + intercept; give both.",
        )
    if args.timeout_s is not None and not (math.isfinite(args.timeout_s) and args.timeout_s > 0):
        raise InvalidInput(f"--timeout-s: got {args.timeout_s:g}, expected seconds, more than 0.")


def _header(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        # Not what came: a mistyped secret would end up in a log.
        raise argparse.ArgumentTypeError("expected KEY=VALUE")
    return key, value
