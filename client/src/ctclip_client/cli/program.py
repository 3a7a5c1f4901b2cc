"""`ctclip`: one program whose sub-commands come from whichever distributions are installed.

A distribution adds a command by an entry point of the group `ctclip.commands`: the point's name is
the command's, and it names a module with `SUMMARY`, `configure(parser)` and `run(args)`, which
returns the exit code. Such modules import what is heavy inside `run`, so that `ctclip --help`
stays quick. A command of several words (`ctclip bench graphs`) names in WORDS the module of each,
which has the same three; DEFAULT_WORD is taken where none is given.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from ctclip_client.cli import streams
from ctclip_client.errors import EXIT_INTERRUPTED, EXIT_USAGE, CTClipError
from ctclip_client.system.distributions import COMMANDS, how_to_install
from ctclip_client.system.terminal import say

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

ENTRY_POINT_GROUP = "ctclip.commands"
TRACEBACK_VARIABLE = "CTCLIP_TRACEBACK"
"""With a value, an error that nobody foresaw ends the program as Python does."""

_HELP = (["-h"], ["--help"])
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))
"""What a disk says that takes nothing more."""
_LOOK_AT_FILE = "Look whether it is there, and whether you may read it or write to it."
_MEMORY = "End what else takes memory here, or use a machine with more."


class Command(Protocol):
    """What the module behind an entry point provides."""

    SUMMARY: str

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors go to standard error: cause, then remedy."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(arguments))


def guarded(work: Callable[[], int]) -> int:
    """Return the exit code of a program's work, or of the error that it raised and that is told."""
    streams.make_usable()
    try:
        try:
            code = work()
        except SystemExit:  # --help, or an option that is wrong
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return code
    except CTClipError as error:
        return _fail(error.cause, error.remedy, error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        return _fail(*_unforeseen(error), EXIT_USAGE)
    finally:
        with suppress(CTClipError):  # an error before it has been said already
            sys.stdout.flush()


def _run(arguments: list[str]) -> int:
    args = parsed(arguments)
    if args.command is None:
        args.parser.print_help(sys.stderr)
        return EXIT_USAGE
    code: int = args.run(args)
    return code


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line says, without doing it; `run` is what would do it.

    Raises: SystemExit, after an option that is wrong has been told, or help; CTClipError for a
    command that there is not.
    """
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    asked = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if asked is not None:
        # Only this one is imported: a broken distribution must not take the others with it.
        points = {asked: _known(asked, points)}
        arguments = _with_word(points[asked], arguments)
    args, unknown = _parser(points).parse_known_args(arguments)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def command_words() -> list[tuple[str, ...]]:
    """Every command with its word, where it has words: ("predict",), ("bench", "graphs"), …"""
    found: list[tuple[str, ...]] = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        words = _words(point.load())
        found += [(point.name, word) for word in words] or [(point.name,)]
    return sorted(found)


class _Parser(argparse.ArgumentParser):
    """Wrong options are told like every other error, without the whole usage before them."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(message, f"{self.prog} --help lists the options.", EXIT_USAGE))

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse's own says nothing where --help cannot be written.
        (sys.stderr if file is None else file).write(message)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults, but not that an option's default is to be absent."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


class _UsageError(CTClipError):
    exit_code = EXIT_USAGE


def _known(name: str, points: dict[str, EntryPoint]) -> EntryPoint:
    if name in points:
        return points[name]
    if name in COMMANDS:
        raise _UsageError(
            f"'{name}' is a command of {COMMANDS[name]}, which is not installed.",
            how_to_install(COMMANDS[name]),
        )
    close = difflib.get_close_matches(name, [*points, *COMMANDS], n=1)
    raise _UsageError(
        f"'{name}' is no command of ctclip.",
        f"Did you mean '{close[0]}'?" if close else f"Commands: {', '.join(sorted(points))}.",
    )


def _parser(points: dict[str, EntryPoint]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ctclip",
        description="CT-CLIP on Triton: export a checkpoint, serve it, score chest CTs with it.",
    )
    parser.add_argument("--version", action="version", version=f"ctclip {version('ctclip-client')}")
    parser.set_defaults(parser=parser)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in sorted(points):
        command = _loaded(name, points[name], needed=len(points) == 1)
        if command is not None:
            _add(subparsers, name, command)
    return parser


def _add(subparsers: argparse._SubParsersAction[_Parser], name: str, command: Command) -> None:
    own = subparsers.add_parser(
        name, help=command.SUMMARY, description=command.SUMMARY, formatter_class=_HelpFormatter
    )
    words = _words(command)
    if words:
        within = own.add_subparsers(
            dest="word", metavar="WORD", required=True, parser_class=_Parser
        )
        for word, module in words.items():
            _add(within, word, cast(Command, importlib.import_module(module)))
    else:
        own.set_defaults(parser=own, run=command.run)
        command.configure(own)


def _words(command: Command) -> Mapping[str, str]:
    return getattr(command, "WORDS", {})


def _with_word(point: EntryPoint, arguments: Sequence[str]) -> Sequence[str]:
    """The arguments with the command's own word after it, where it has words and none is given."""
    command = _loaded(point.name, point, needed=True)
    default = getattr(command, "DEFAULT_WORD", None)
    second = list(arguments[1:2])
    if default is None or (second and not second[0].startswith("-")) or second in _HELP:
        return arguments
    return [arguments[0], default, *arguments[1:]]


def _loaded(name: str, point: EntryPoint, *, needed: bool) -> Command | None:
    """Import a command; one that was not asked for is left out of the list with a word on it."""
    try:
        return cast(Command, point.load())
    except (ImportError, AttributeError) as error:
        home = point.dist.name if point.dist is not None else point.value
        cause = f"The command '{name}' of {home} cannot be loaded: {error}."
        if needed:
            raise _UsageError(cause, how_to_install(home)) from error
        say(f"note: {cause}")
        return None


_INDENT = " " * len("error: ")


def _fail(cause: str, remedy: str, code: int) -> int:
    # Several causes come indented, one a line. Other ends of lines are of a file's name, say, and
    # must not begin a line that looks like the program's own.
    first, *more = cause.split(f"\n{_INDENT}")
    say(f"error: {first}")
    for line in (*more, remedy):
        if line:
            say(_INDENT + line)
    return code


def _unforeseen(error: Exception) -> tuple[str, str]:
    """Cause and remedy of an error that no command has translated. It is never a verdict."""
    if isinstance(error, OSError) and error.filename is not None:
        remedy = "Make room on that disk." if error.errno in _FULL else _LOOK_AT_FILE
        return f"{error.filename}: {error.strerror}.", remedy
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{error.strerror}.", "Make room on the disk that is written to, or set TMPDIR."
    if isinstance(error, MemoryError):
        return f"there is too little memory: {str(error) or 'no more is to be had'}.", _MEMORY
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = (str(error).splitlines() or [""])[0]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return (
        f"a fault of ctclip itself ({where}): {type(error).__name__}: {said}",
        f"Please report it, with what {TRACEBACK_VARIABLE}=1 in the environment makes it say.",
    )
