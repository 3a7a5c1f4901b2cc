"""`ctclip embed text`: a vector for every report."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from ctclip_client.cli.embed_out import add_out_option, embedding_outputs
from ctclip_client.cli.many_options import add_journal_options
from ctclip_client.cli.serving import add_server_options
from ctclip_client.contract import TEXT_EMBEDDING_ENSEMBLE, TEXT_ENCODER
from ctclip_client.errors import EXIT_OK, ServerError
from ctclip_client.system.terminal import printable, say

if TYPE_CHECKING:
    from ctclip_client import Client
    from ctclip_client.batch.journal import Journal
    from ctclip_client.batch.names import Names
    from ctclip_client.batch.texts import Report, Reports
    from ctclip_client.results import Provenance

SUMMARY = "Embed reports with a server: one vector of length 1 a report."
COLUMNS = (
    "path", "key", "text_sha256", "release", "checkpoint", "checkpoint_sha256", "precision",
    "random_weights",
)  # fmt: skip
"""What Parquet and .npz say of each report besides its embedding."""
_KEY, _STATE = ("path", "key"), ("text_sha256",)
_TEXTS_AT_ONCE = TEXT_ENCODER.max_batch_size

Keyed = tuple[tuple[str, str], "Report"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="REPORTS",
        help="CSV with Findings_EN and Impressions_EN, or with a column 'text' (by VolumeName or "
        "key, where there is such a column); or .txt with a text a line",
    )  # fmt: skip
    add_server_options(parser, "for each 64 texts")
    add_out_option(parser)
    add_journal_options(parser.add_argument_group("many texts"), retry=False)


def run(args: argparse.Namespace) -> int:
    """Embed every report.

    Raises: CTClipError; what was done so far is kept.
    """
    from ctclip_client.batch.names import Names
    from ctclip_client.batch.texts import read_reports
    from ctclip_client.cli.many_options import asked
    from ctclip_client.cli.run_files import check_files, opened_journal, tables_from
    from ctclip_client.cli.serving import check_server_options
    from ctclip_client.system.signals import termination_interrupts

    out = embedding_outputs(args.out, COLUMNS)
    check_files(args, {"--out": args.out}, [], "one of the files of reports")
    check_server_options(args)
    names = Names(args.hash_names)
    word = asked(command="embed text", hash_names=args.hash_names)
    with ExitStack() as stack:
        stack.enter_context(termination_interrupts())
        files = [read_reports(path) for path in dict.fromkeys(args.paths)]
        journal = stack.enter_context(
            opened_journal(args, out.journal, {"--out": args.out}, word, key=_KEY, state=_STATE,
                           vectors=True)
        )  # fmt: skip
        assert journal is not None  # noqa: S101 (--out is required)
        texts = list(_keyed(files, names))
        todo = [each for each in texts if _is_open(journal, each)]
        for file in files:
            say(f"{names.path(file.path)}: {_texts(len(file.reports))} from {file.taken}")
        before = len(texts) - len(todo)
        known = f", {before:,} done already by release {journal.release}" if before else ""
        say(f"plan: {_texts(len(todo))} to embed{known}")
        _embed_all(args, todo, journal)
        tables_from(
            journal, [key for key, _ in texts], out.writers, asked_for=out.journal is not None
        )
    return EXIT_OK


def _keyed(files: Sequence[Reports], names: Names) -> Iterator[Keyed]:
    for file in files:
        for report in file.reports:
            yield (names.path(file.path), names.path(report.key)), report


def _is_open(journal: Journal, each: Keyed) -> bool:
    key, report = each
    entry = journal.entries.get(key)
    return entry is None or entry.state != (report.sha256,)


def _embed_all(args: argparse.Namespace, todo: Sequence[Keyed], journal: Journal) -> None:
    from ctclip_client.batch.progress import Counter
    from ctclip_client.batch.service import GoneError, patiently
    from ctclip_client.cli.serving import server_of

    with ExitStack() as stack:
        connection = stack.enter_context(server_of(args))
        client = stack.enter_context(connection.client())

        def check() -> None:
            client.check_ready(TEXT_EMBEDDING_ENSEMBLE.name)

        check()
        provenance = _checked_release(client, journal)
        if provenance.random_weights:
            say(
                f"RANDOM WEIGHTS: release {provenance.release} was made from a demo checkpoint; "
                "its embeddings mean nothing."
            )
        counter = stack.enter_context(Counter("Embedding", len(todo)))
        wait_s = args.wait_s if args.repository is None else 0.0

        def tell(cause: str) -> None:
            counter.say(printable(f"note: {cause} Waiting up to {wait_s:g} s for it."))

        for start in range(0, len(todo), _TEXTS_AT_ONCE):
            some = todo[start : start + _TEXTS_AT_ONCE]
            texts = [report.text for _, report in some]

            def ask(texts: list[str] = texts) -> tuple[Any, Provenance]:
                vectors = client.encode_text(texts)
                # Texts carry no PROVENANCE: asked afterwards, another release would be seen.
                return vectors, _checked_release(client, journal, provenance)

            try:
                vectors, _ = patiently(ask, check, wait_s, tell, Event())
            except GoneError as gone:
                raise gone.error from None
            for (key, report), vector in zip(some, vectors, strict=True):
                journal.append(
                    {
                        "path": key[0], "key": key[1], "text_sha256": report.sha256,
                        "release": provenance.release, "checkpoint": provenance.checkpoint_name,
                        "checkpoint_sha256": provenance.checkpoint_sha256,
                        "precision": provenance.precision,
                        "random_weights": provenance.random_weights,
                    },
                    vector,
                )  # fmt: skip
            counter.advance(len(some))
    say(f"{_texts(len(todo))} embedded")


def _texts(count: int) -> str:
    return f"{count:,} text{'' if count == 1 else 's'}"


def _checked_release(
    client: Client, journal: Journal, before: Provenance | None = None
) -> Provenance:
    """What the server has. Raises: InvalidInput where that is another release than the rows'."""
    from ctclip_client.batch.service import provenance_of
    from ctclip_client.cli.many import other_release

    found = provenance_of(client)
    if found is None:
        raise ServerError(
            "the server does not say which release it has.", "Look at it with ctclip doctor."
        )
    known = journal.release or (before.release if before else "")
    if known and found.release != known:
        raise other_release(f"{journal.path}: holds", known, found.release)
    return found
