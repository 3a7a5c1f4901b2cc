"""Where `ctclip predict` puts its results: standard output, and files that are whole or absent."""

from __future__ import annotations

import argparse
import csv
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from ctclip_client.cli.predictions import COLUMNS, Prediction
from ctclip_client.cli.tables import TablePrinter
from ctclip_client.errors import InvalidInput
from ctclip_client.system.files import NoRegularFile, destination
from ctclip_client.system.terminal import printable

Emit = Callable[[Prediction], None]


@contextmanager
def outputs(args: argparse.Namespace) -> Iterator[Emit]:
    """Open every output that was asked for; give the function that writes one scan to them all.

    Raises:
        InvalidInput: a file cannot be written, or would replace one of the scans.
    """
    emits: list[Emit] = []
    scored: list[str] = []
    with ExitStack() as stack:
        if args.json:
            stdout = sys.stdout  # progress may put another in its place
            emits.append(lambda scan: print(_json(scan, args), file=stdout, flush=True))
        if args.jsonl is not None:
            lines = stack.enter_context(_whole_file("--jsonl", args.jsonl, args.paths, scored))

            def write_line(scan: Prediction) -> None:
                with _blamed_on(args.jsonl):
                    lines.write(_json(scan, args) + "\n")

            emits.append(write_line)
        if args.csv is not None:
            table = stack.enter_context(_whole_file("--csv", args.csv, args.paths, scored))
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(COLUMNS)

            def write_rows(scan: Prediction) -> None:
                with _blamed_on(args.csv):
                    writer.writerows(scan.to_rows())

            emits.append(write_rows)
        if not emits:
            printer = TablePrinter(sys.stdout)
            stack.callback(printer.close)
            emits.append(printer.show)
        warned = args.json or args.jsonl is not None or args.csv is not None
        random: set[str] = set()

        def emit(scan: Prediction) -> None:
            for one in emits:
                one(scan)
            scored.append(scan.path)
            if not warned:
                return
            for note in scan.source.notes:
                print(printable(f"note: {scan.path}: {note}"), file=sys.stderr)
            provenance = scan.scores.provenance
            if provenance.random_weights and provenance.release not in random:
                random.add(provenance.release)
                print(
                    f"RANDOM WEIGHTS: release {printable(provenance.release)} was made from a demo "
                    "checkpoint; its results mean nothing.",
                    file=sys.stderr,
                )

        yield emit


def _json(scan: Prediction, args: argparse.Namespace) -> str:
    # ASCII, because names of files need not be text.
    return json.dumps(scan.to_json(embedding=args.embedding), allow_nan=False)


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Around the writing of this file and nothing else: other outputs have errors of their own."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{path}: writing failed: {error.strerror or error}.",
            "Make room on that disk and run the remaining scans again.",
        ) from error


@contextmanager
def _whole_file(option: str, path: Path, scans: list[Path], scored: list[str]) -> Iterator[TextIO]:
    """A text file that appears under its name only when all is written.

    Ended by an error or Ctrl-C, what was written so far is kept beside it as `NAME.partial`. Where
    no scan was scored nothing is written, and a file from an earlier run stays as it is.
    """
    if path.is_dir():
        raise InvalidInput(f"{path}: a folder, expected the name of a file to write.")
    if any(_same_file(path, scan) for scan in scans):
        raise InvalidInput(f"{path}: is one of the scans and would be replaced.", "Rename it.")
    try:
        path = destination(path)
        partial = destination(path.with_name(f"{path.name}.partial"))
        hidden = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        file = hidden.open("x", encoding="utf-8", errors="surrogateescape", newline="")
    except NoRegularFile as error:
        raise InvalidInput(
            f"{option}: {error.filename}: {error.strerror}.",
            "Name a file, or let --json write to standard output.",
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"{path}: cannot be written: {error.strerror or error}.",
            "Name a file in an existing folder that you may write to.",
        ) from error
    try:
        yield file
        with _blamed_on(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            if scored:
                hidden.replace(path)
    except BaseException:
        with suppress(OSError):  # the disk may be full: what is on it is all there is
            file.close()
        if scored:
            hidden.replace(partial)
            print(printable(f"note: what was scored so far is in {partial}"), file=sys.stderr)
        raise
    finally:
        hidden.unlink(missing_ok=True)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
