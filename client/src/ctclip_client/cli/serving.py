"""The server of a command that asks one: a running one, or the embedded one for the time of a run.

The client knows no server. The server's distribution offers one by an entry point of the group
`ctclip.servers`, named `embedded`: a function of a repository and of what is to be done with lines
for a person, which gives a context with the server's gRPC address.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ctclip_client.cli.connection import (
    URL_VARIABLE,
    add_connection_options,
    given_options,
    read_connection,
    url_of_environment,
)
from ctclip_client.errors import InvalidInput, Unavailable
from ctclip_client.system.distributions import how_to_install
from ctclip_client.system.terminal import say

if TYPE_CHECKING:
    from ctclip_client.transport.connection import Connection

ENTRY_POINT_GROUP = "ctclip.servers"
_EMBEDDED = "embedded"
_DISTRIBUTION = "ctclip-server"
_URL = "localhost:8001"

Serving = Callable[[Path, Callable[[str], None]], AbstractContextManager[str]]


def add_server_options(
    parser: argparse.ArgumentParser, timeout_help: str = "for each scan"
) -> None:
    """Add the options of the connection, and --repository."""
    add_connection_options(
        parser,
        f"gRPC service of the server; or {URL_VARIABLE} ({_URL} if neither is given)",
        timeout_help=timeout_help,
    )
    parser.add_argument_group("a server of the run's own").add_argument(
        "--repository", type=Path, metavar="DIR",
        help="start the embedded server with this model repository for the time of the run, "
        "instead of asking one that runs already",
    )  # fmt: skip


def check_server_options(args: argparse.Namespace) -> None:
    """Raises: InvalidInput where options contradict each other, or one is wrong."""
    if args.repository is None:
        _running(args)
        return
    given = ["--url"] if args.url is not None else given_options(args)
    if given:
        raise InvalidInput(
            f"--repository starts a server of its own; {given[0]} is for one that runs already.",
            "Leave one of them out.",
        )


@contextmanager
def server_of(args: argparse.Namespace) -> Iterator[Connection]:
    """How to reach the server; one of its own is started, and ends with the block.

    Raises: CTClipError where it cannot be started, or fails its self-check.
    """
    if args.repository is None:
        yield _running(args)
        return
    from ctclip_client.transport.connection import Connection

    serving = _embedded()
    say(f"starting the embedded server with {args.repository}, for the time of this run ...")
    with serving(args.repository, say) as url:
        try:
            yield Connection(url, args.timeout_s)
        except Unavailable as error:  # whose remedy is for one that somebody has started
            raise Unavailable(
                f"the embedded server has gone: {error.cause}",
                "Run the same command again; ctclip serve --repository DIR tells more.",
            ) from error
        say("ending the embedded server")


def _running(args: argparse.Namespace) -> Connection:
    if args.url is not None:
        return read_connection(args, args.url)
    return read_connection(args, url_of_environment() or _URL, URL_VARIABLE)


def _embedded() -> Serving:
    for point in entry_points(group=ENTRY_POINT_GROUP, name=_EMBEDDED):
        try:
            return cast(Serving, point.load())
        except ImportError as error:
            raise InvalidInput(
                f"--repository: the embedded server cannot be loaded: {error}.",
                how_to_install(_DISTRIBUTION),
            ) from error
    raise InvalidInput(
        f"--repository: the embedded server is a part of {_DISTRIBUTION}, which is not installed.",
        f"{how_to_install(_DISTRIBUTION)}; or name a server that runs: --url HOST:PORT",
    )
