"""What `ctclip predict` prints of each scan: JSON or a table on standard output, notes beside."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ctclip_client.cli import streams
from ctclip_client.cli.predictions import Prediction
from ctclip_client.system.terminal import printable

Show = Callable[[Prediction], bool]
"""Prints one scan; false once nobody reads what is printed, and no file takes it either."""


@contextmanager
def printed(*, as_json: bool, table: bool, embedding: bool, has_file: bool) -> Iterator[Show]:
    """Give the function that prints a scan.

    as_json: an object a line. table: for a person. embedding: of the scan, in the object. has_file:
    results go into files, too.
    """
    stdout = sys.stdout  # progress may put another in its place
    if table:
        from ctclip_client.cli.tables import TablePrinter

        printer = TablePrinter(stdout)
    random: set[str] = set()

    def show(scan: Prediction) -> bool:
        if as_json:
            # ASCII, because names of files need not be text.
            line = json.dumps(scan.to_json(embedding=embedding), allow_nan=False)
            print(line, file=stdout, flush=True)
        if table:
            printer.show(scan)
        else:
            tell_notes(scan, random)
        return has_file or streams.is_read(stdout)

    yield show
    if table:
        printer.close()


def tell_notes(scan: Prediction, random: set[str]) -> None:
    """Say what a person should know of a scan that no table shows. random: releases of which it was
    said that their weights are random."""
    series = "" if scan.source.series is None else f" (series {scan.source.series})"
    for note in scan.notes:
        print(printable(f"note: {scan.path}{series}: {note}"), file=sys.stderr)
    provenance = scan.scores.provenance
    if provenance.random_weights and provenance.release not in random:
        random.add(provenance.release)
        print(
            f"RANDOM WEIGHTS: release {printable(provenance.release)} was made from a demo "
            "checkpoint; its results mean nothing.",
            file=sys.stderr,
        )
