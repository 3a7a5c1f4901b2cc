"""The files of a run: a journal that goes on, and tables that are made from it at the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctclip_client.batch.journal import Journal, journal_of
from ctclip_client.cli.connection import connection_files
from ctclip_client.cli.many_options import KEY, STATE
from ctclip_client.cli.output_files import check_output_files
from ctclip_client.errors import InvalidInput
from ctclip_client.system.terminal import say


def check_files(
    args: argparse.Namespace,
    outputs: Mapping[str, Path | None],
    inputs: Iterable[tuple[str, Path | None]],
    paths_are: str = "one of the scans",
) -> None:
    """Refuse outputs that cannot be written, or would overwrite what is read.

    outputs: option -> its file. Raises: InvalidInput.
    """
    check_output_files(
        outputs,
        [
            *((paths_are, path) for path in args.paths),
            ("the file of --files", getattr(args, "files", None)),
            ("the file of --metadata", getattr(args, "metadata", None)),
            *inputs,
            *connection_files(args),
        ],
    )


@contextmanager
def opened_journal(
    args: argparse.Namespace,
    own: Path | None,
    tables: Mapping[str, Path | None],
    asked: str,
    *,
    key: tuple[str, ...] = KEY,
    state: tuple[str, ...] = STATE,
    vectors: bool = False,
) -> Iterator[Journal | None]:
    """The journal of a run, read and locked; None where nothing is written into files.

    own: the file that is the journal itself. tables: files that are made from it; the journal lies
    beside the first of them where `own` is None.

    Raises: InvalidInput.
    """
    path = own
    if path is None:
        made = next((path for path in tables.values() if path is not None), None)
        if made is None:
            yield None
            return
        path = journal_of(made)
    for table in filter(None, tables.values()):
        if path != (other := journal_of(table)) and other.exists():
            say(f"note: {other}, of an earlier command, is not read; results are kept in {path}")
    with Journal(path, asked, key=key, state=state, vectors=vectors, anew=args.again) as journal:
        try:
            yield journal
        except BaseException as error:
            if journal.entries:
                # The remedy of a wrong input says what goes on: of another release, nothing does.
                how = "" if isinstance(error, InvalidInput) else "; the same command goes on"
                say(f"note: what was done so far is in {path}{how}")
            raise


def tables_from(
    journal: Journal,
    keys: Iterable[tuple[Any, ...]],
    writers: Sequence[Callable[[Journal], None]],
    *,
    asked_for: bool,
) -> None:
    """Write the tables of the scans or texts of this command. Without a result, nothing is
    replaced.

    keys: theirs, in the order of the command line, which is that of the tables. asked_for: the
    journal is an output by itself. Where it is not, it stays all the same, so that nothing is
    scored twice, and it is told.
    """
    journal.select(keys)
    kinds = [entry.kind for entry in journal.entries.values()]
    if "" in kinds:
        for write in writers:
            write(journal)
    if not asked_for and kinds:
        again = "; --retry-failed tries again what failed" if any(kinds) else ""
        say(f"note: every result is kept in {journal.path}, so that none is asked for again{again}")
