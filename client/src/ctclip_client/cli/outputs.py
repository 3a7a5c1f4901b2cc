"""Where `ctclip predict` puts its results: standard output, and files that are whole or absent."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ctclip_client.cli import streams
from ctclip_client.cli.output_files import partial_of
from ctclip_client.cli.predictions import COLUMNS, Prediction
from ctclip_client.cli.tables import TablePrinter
from ctclip_client.errors import InvalidInput
from ctclip_client.system.files import destination, placed
from ctclip_client.system.terminal import printable

Emit = Callable[[Prediction], bool]
"""Writes one scan; false once nobody reads what is written, and no file takes it either."""


@contextmanager
def outputs(args: argparse.Namespace) -> Iterator[Emit]:
    """Open every output that was asked for; give the function that writes one scan to them all.

    Raises:
        InvalidInput: a file cannot be written.
    """
    emits: list[Callable[[Prediction], None]] = []
    stdout = sys.stdout  # progress may put another in its place
    with ExitStack() as stack:
        if args.json:
            emits.append(lambda scan: print(_json(scan, args), file=stdout, flush=True))
        if args.jsonl is not None:
            lines = stack.enter_context(_whole_file(args.jsonl))
            emits.append(lambda scan: lines(_json(scan, args) + "\n"))
        if args.csv is not None:
            rows = stack.enter_context(_whole_file(args.csv))
            header = [COLUMNS]  # written with the first scan, so that no file holds it alone

            def write_rows(scan: Prediction) -> None:
                table = io.StringIO()
                csv.writer(table, lineterminator="\n").writerows([*header, *scan.to_rows()])
                header.clear()
                rows(table.getvalue())

            emits.append(write_rows)
        quiet = bool(emits)  # of what the table would say
        if not emits:
            printer = TablePrinter(stdout)
            stack.callback(printer.close)
            emits.append(printer.show)
        has_file = args.jsonl is not None or args.csv is not None or args.explain is not None
        random: set[str] = set()

        def emit(scan: Prediction) -> bool:
            for one in emits:
                one(scan)
            if quiet:
                tell(scan)
            return has_file or streams.is_read(stdout)

        def tell(scan: Prediction) -> None:
            for note in scan.notes:
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
def _whole_file(path: Path) -> Iterator[Callable[[str], None]]:
    """A text file, as a function that writes to it, that appears only when all is written.

    Ended by an error or Ctrl-C, what was written so far is kept beside it as `NAME.partial`. Where
    nothing was written, a file from an earlier run stays as it is.
    """
    partial = None
    try:
        with ExitStack() as stack:
            try:
                path = destination(path)  # a link may lead to another disk
                file = stack.enter_context(placed(path, partial_of(path)))
            except OSError as error:
                raise InvalidInput(
                    f"{path}: cannot be written: {error.strerror or error}.",
                    "Name a file in an existing folder that you may write to.",
                ) from error

            def write(text: str) -> None:
                nonlocal partial
                with _writing(path):
                    partial = partial_of(path)
                    file.write(text.encode("utf-8", "surrogateescape"))

            yield write
            with _writing(path):
                stack.close()
    except BaseException:
        if partial is not None and partial.exists():
            print(printable(f"note: what was scored so far is in {partial}"), file=sys.stderr)
        raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Around the writing of this file and nothing else: other outputs have errors of their own."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{path}: writing failed: {error.strerror or error}.",
            "Make room on that disk and run the remaining scans again.",
        ) from error
