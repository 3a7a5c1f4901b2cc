"""`ctclip embed image`: a vector for every chest CT."""

from __future__ import annotations

import argparse
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from ctclip_client.cli.embed_out import add_out_option, embedding_outputs
from ctclip_client.cli.flag_values import add_reading_options
from ctclip_client.cli.many_options import add_run_options
from ctclip_client.cli.serving import add_server_options
from ctclip_client.contract import PATHOLOGIES
from ctclip_client.errors import ServerError

if TYPE_CHECKING:
    from ctclip_client import Client, Scan, Volume
    from ctclip_client.batch.journal import Row
    from ctclip_client.cli.predictions import Prediction

SUMMARY = "Embed chest CTs with a server: one vector of length 1 a scan."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_run_options(parser)
    add_server_options(parser)
    add_out_option(parser)
    add_reading_options(parser, "reading")


def run(args: argparse.Namespace) -> int:
    """Embed every scan; one that fails is reported and the others go on.

    Raises: CTClipError, as `ctclip predict`.
    """
    from ctclip_client.batch.names import Names
    from ctclip_client.batch.tables import EMBEDDED_SCANS
    from ctclip_client.cli.flag_values import reading_options
    from ctclip_client.cli.many import Work, planned, predicted, run_scans
    from ctclip_client.cli.many_options import asked, asked_of_reading
    from ctclip_client.cli.outputs import tell_notes
    from ctclip_client.cli.run_files import check_files, opened_journal, tables_from
    from ctclip_client.cli.serving import check_server_options
    from ctclip_client.system.signals import termination_interrupts

    reading_options(args)  # refused once for all scans rather than once for each of them
    out = embedding_outputs(args.out, EMBEDDED_SCANS)
    check_files(args, {"--out": args.out}, [])
    check_server_options(args)
    names = Names(args.hash_names)
    word = asked(command="embed image", **asked_of_reading(args))
    random: set[str] = set()

    def score(client: Client, each: Scan, volume: Volume, read_ms: float) -> Prediction:
        # Not `encode_image`, which does not say which release has answered; scores cost nothing.
        return predicted(client.pathologies(volume), each, volume, names, read_ms)

    def row(scan: Prediction) -> tuple[Row, Any]:
        content = scan.to_json(embedding=False)
        kept = {name: content[name] for name in ("recipe", "timings_ms", "transport")}
        provenance = scan.scores.provenance
        geometry = ""
        with suppress(ServerError):  # a server may keep it to itself: readers take that, too
            geometry = provenance.geometry()[0].in_words()
        made_by = {"checkpoint": provenance.checkpoint_name,
                   "checkpoint_sha256": provenance.checkpoint_sha256,
                   "precision": provenance.precision,
                   "geometry": geometry,
                   "random_weights": provenance.random_weights}  # fmt: skip
        return {**made_by, **kept}, scan.scores.image_embedding

    def show(scan: Prediction) -> bool:
        tell_notes(scan, random)
        return True

    with ExitStack() as stack:
        stack.enter_context(termination_interrupts())
        journal = stack.enter_context(
            opened_journal(args, out.journal, {"--out": args.out}, word, vectors=True)
        )
        assert journal is not None  # noqa: S101 (--out is required)
        plan = planned(args, journal, names)
        work = Work("Embedding", "embedded", PATHOLOGIES.name, lambda _: None, score, row, show)
        code = run_scans(args, work, plan, journal)
        tables_from(journal, plan.keys, out.writers, asked_for=out.journal is not None)
    return code
