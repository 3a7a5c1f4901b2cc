"""`ctclip`: one program whose sub-commands come from whichever distributions are installed.

A distribution adds a command by an entry point of the group `ctclip.commands`: the point's name is
the command's, and it names a module with `SUMMARY`, `configure(parser)` and `run(args)`, which
returns the exit code. Such modules import what is heavy inside `run`, so that `ctclip --help`
stays quick.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import NoReturn, Protocol, cast

from ctclip_client.distributions import how_to_install
from ctclip_client.errors import CTClipError

EXIT_OK = 0
EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_UNAVAILABLE = 4
EXIT_INTERRUPTED = 130

ENTRY_POINT_GROUP = "ctclip.commands"

_ELSEWHERE = {
    "export": "ctclip-export",
    "parity": "ctclip-bench",
    "build-engines": "ctclip-export",
    "serve": "ctclip-server",
    "promote": "ctclip-server",
    "rollback": "ctclip-server",
    "bench": "ctclip-bench",
    "demo": "ctclip-bench",
}
"""Commands of distributions that may not be installed -> the distribution that brings each."""


class Command(Protocol):
    """What the module behind an entry point provides."""

    SUMMARY: str

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors go to standard error: cause, then remedy."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    asked = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without "…" must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if asked is not None:
            # Only this one is imported: a broken distribution must not take the others with it.
            points = {asked: _known(asked, points)}
        parser, commands = _parser(points)
        args = parser.parse_args(arguments)
        if args.command is None:
            parser.print_help(sys.stderr)
            return EXIT_USAGE
        code = commands[args.command].run(args)
        sys.stdout.flush()
        return code
    except CTClipError as error:
        return _fail(error.cause, error.remedy, error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; keep the interpreter's own flush from raising again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


class _Parser(argparse.ArgumentParser):
    """Wrong options are told like every other error, without the whole usage before them."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"error: {message}\n       {self.prog} --help lists the options.\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults, but not that an option's default is to be absent."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


class _UsageError(CTClipError):
    exit_code = EXIT_USAGE


def _known(name: str, points: dict[str, EntryPoint]) -> EntryPoint:
    if name in points:
        return points[name]
    if name in _ELSEWHERE:
        raise _UsageError(
            f"'{name}' is a command of {_ELSEWHERE[name]}, which is not installed.",
            how_to_install(_ELSEWHERE[name]),
        )
    close = difflib.get_close_matches(name, [*points, *_ELSEWHERE], n=1)
    raise _UsageError(
        f"'{name}' is no command of ctclip.",
        f"Did you mean '{close[0]}'?" if close else f"Commands: {', '.join(sorted(points))}.",
    )


def _parser(
    points: dict[str, EntryPoint],
) -> tuple[argparse.ArgumentParser, dict[str, Command]]:
    parser = _Parser(
        prog="ctclip",
        description="CT-CLIP on Triton: export a checkpoint, serve it, score chest CTs with it.",
    )
    parser.add_argument("--version", action="version", version=f"ctclip {version('ctclip-client')}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands: dict[str, Command] = {}
    for name in sorted(points):
        command = _loaded(name, points[name], needed=len(points) == 1)
        if command is None:
            continue
        commands[name] = command
        command.configure(
            subparsers.add_parser(
                name,
                help=command.SUMMARY,
                description=command.SUMMARY,
                formatter_class=_HelpFormatter,
            )
        )
    return parser, commands


def _loaded(name: str, point: EntryPoint, *, needed: bool) -> Command | None:
    """Import a command; one that was not asked for is left out of the list with a word on it."""
    try:
        return cast(Command, point.load())
    except (ImportError, AttributeError) as error:
        home = point.dist.name if point.dist is not None else point.value
        cause = f"The command '{name}' of {home} cannot be loaded: {error}."
        if needed:
            raise _UsageError(cause, how_to_install(home)) from error
        print(f"note: {cause}", file=sys.stderr)
        return None


def _fail(cause: str, remedy: str, code: int) -> int:
    print(f"error: {cause}", file=sys.stderr)
    if remedy:
        print(f"       {remedy}", file=sys.stderr)
    return code
