"""How commands reach a server: the same options everywhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctclip_client import Client


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Add --url, --timeout-s and what a server behind TLS or restrictions asks for."""
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--url", default="localhost:8001", metavar="HOST:PORT", help="gRPC service of the server"
    )
    group.add_argument("--timeout-s", type=float, default=60.0, metavar="S", help="for each scan")
    group.add_argument("--tls", action="store_true", help="the server's gRPC service uses TLS")
    group.add_argument(
        "--root-certificates",
        type=Path,
        metavar="FILE",
        help="PEM file of who may sign the server's certificate; implies --tls",
    )
    group.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="sent with every call, for instance triton-grpc-protocol-inference=WORD (other users "
        "of this machine may see it in the list of processes); may be repeated",
    )


def connect(args: argparse.Namespace) -> Client:
    """Make the client that the options describe; nothing is sent yet.

    Raises: InvalidInput or Unreadable, naming the option that is wrong.
    """
    from ctclip_client import Client, Tls

    tls = Tls(args.root_certificates) if args.tls or args.root_certificates else None
    return Client(args.url, args.timeout_s, tls=tls, headers=dict(args.header))


def _header(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        # Not what came: a mistyped secret would end up in a log.
        raise argparse.ArgumentTypeError("expected KEY=VALUE")
    return key, value
