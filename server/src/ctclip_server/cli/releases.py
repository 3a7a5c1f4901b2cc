"""What `ctclip promote` and `ctclip rollback` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.cli.connection import (
    add_connection_options,
    connection_flags,
    read_connection,
)
from ctclip_client.errors import EXIT_OK, InvalidInput

if TYPE_CHECKING:
    from ctclip_server.releases.may_serve import Release
    from ctclip_server.releases.switch import Switch


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    parser.add_argument(
        "--repository",
        type=Path,
        required=True,
        metavar="DIR",
        help="the model repository that the server serves",
    )
    parser.add_argument("--to", type=int, metavar="VERSION", help="a version of the repository")
    add_connection_options(
        parser,
        "the server's gRPC service",
        url_required=True,
        timeout_s=600.0,
        timeout_help="for loading a model, and for the last requests of the old version",
    )


def switch(args: argparse.Namespace, *, back: bool) -> int:
    """Make another release serve. Told to end (SIGTERM, SIGHUP, Ctrl-C), put everything back.

    Raises:
        CTClipError: it may not serve, or could not; the one that served still does.
    """
    # Here and not later: a signal that arrives inside these imports may surface as their failure.
    import tritonclient.grpc  # noqa: F401

    from ctclip_client.release.members import read_members
    from ctclip_client.system.progress import Stages
    from ctclip_client.system.signals import termination_interrupts
    from ctclip_server.releases.control import Control
    from ctclip_server.releases.may_serve import check_release
    from ctclip_server.releases.place import place_release
    from ctclip_server.releases.switch import Switch, choose_target, served_versions

    candidate = getattr(args, "from", None)
    if candidate is not None and args.to is not None:
        raise InvalidInput(
            "--from and --to exclude each other: what --from brings becomes a new version.",
            "Leave one of them out.",
        )
    members = read_members(args.repository)
    control = Control(read_connection(args, args.url), flags=connection_flags(args))
    with termination_interrupts(), control, Stages() as stages:
        served = served_versions(control, members)
        asked = args.to
        if candidate is not None:
            with stages.stage(f"Check and copy {candidate}"):
                asked = place_release(members, read_members(candidate))
        version = choose_target(members, served, back=back, asked=asked)
        with stages.stage(f"Check version {version}"):
            release = check_release(members, version)
        if served != {version}:
            _say(
                f"{release} takes the place of version {', '.join(map(str, sorted(served)))}. Both "
                "are loaded for a while: the server needs twice the memory of its models."
            )
        change = Switch(control, members, release, stages.stage, _say)
        try:
            left = change.run(served, args.timeout_s)
        except KeyboardInterrupt:
            _say(_interrupted(change, release, served))
            raise
    if left:
        _say(
            f"warning: after {args.timeout_s:g} s there are still requests of the old version in "
            f"{', '.join(sorted(left))}; its memory is free when they end."
        )
    print(f"{args.url} serves {release}" + (" as before" if served == {version} else ""))
    return EXIT_OK


def _interrupted(change: Switch, release: Release, served: Collection[int]) -> str:
    if change.changed_over:
        return (
            f"{release} serves. What is left of the old version is unloaded by {change.completing}"
        )
    if change.halfway:
        return (
            "Not everything is put back. This completes the switch, or "
            f"with another version after --to puts that one back: {change.completing}"
        )
    return f"Nothing has changed: version {', '.join(map(str, sorted(served)))} still serves."


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
