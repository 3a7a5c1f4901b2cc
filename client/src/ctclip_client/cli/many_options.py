"""Options of a run over many scans or texts, and what they mean to its journal.

Imports nothing heavy: `ctclip predict --help` shows them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from ctclip_client.cli.flag_values import seconds, some_path

MOST_READERS = 4
FEW = 4
"""Fewer scans are read before other processes would have started."""
KEY = ("path", "series")
STATE = ("size_bytes", "mtime_ns")
"""Fields of a row: which scan it is about, and which state of it."""
_READING = ("as_stored", "spacing", "slope", "intercept", "series", "metadata", "any_region")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add what a run over many scans can be told."""
    parser.add_argument(
        "paths", nargs="*", type=some_path, metavar="PATH",
        help="CT files, archives (zip, tar) of one scan, and folders, which are searched with all "
        "below them",
    )  # fmt: skip
    group = parser.add_argument_group("many scans")
    group.add_argument(
        "--files", type=Path, metavar="LIST",
        help="more paths: a CSV with a column 'path' (no other is read), or one path a line; "
        "what is relative counts from the folder of LIST",
    )  # fmt: skip
    group.add_argument(
        "--readers", type=_count, metavar="N",
        help=f"processes that read ahead of the server (as many as there are cores, {MOST_READERS} "
        f"at most); 0, or fewer than {FEW} scans: none, scans are read in this one",
    )  # fmt: skip
    add_journal_options(group)


def add_journal_options(group: argparse._ArgumentGroup, *, retry: bool = True) -> None:
    """Add what a run that is kept in a journal can be told. retry: of what failed, too."""
    if retry:
        group.add_argument(
            "--retry-failed", action="store_true", help="also what failed in the run that goes on"
        )
    group.add_argument(
        "--again",
        action="store_true",
        help="everything anew: forget all that the file of results holds",
    )
    group.add_argument(
        "--wait-s", type=seconds, default=60.0, metavar="S",
        help="how long to wait for a server that went away in the middle of a run",
    )  # fmt: skip
    group.add_argument(
        "--hash-names",
        action="store_true",
        help="in all output, SHA-256 instead of paths, names and series",
    )


def asked(**what: Any) -> str:
    """A short word for what is asked of every scan. Files count by what is in them.

    Raises: OSError.
    """
    told = {
        name: hashlib.sha256(value.read_bytes()).hexdigest() if isinstance(value, Path) else value
        for name, value in what.items()
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def asked_of_reading(args: argparse.Namespace) -> dict[str, Any]:
    """How scans are read, and what they are called, for `asked`."""
    return {name: getattr(args, name, None) for name in (*_READING, "hash_names")}


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 3:
        raise argparse.ArgumentTypeError(f"got '{text}', expected a number of processes")
    return int(text)
