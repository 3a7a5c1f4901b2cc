"""`ctclip predict`: score chest CTs with a server and print or write the findings."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctclip_client.cli.flag_values import add_reading_options
from ctclip_client.contract import CLASSIFY, EXPLAIN, PATHOLOGIES, ZERO_SHOT, Ensemble
from ctclip_client.errors import InvalidInput

if TYPE_CHECKING:
    from ctclip_client import Classification, Client, Finding, Scan, Volume
    from ctclip_client.batch.journal import Journal, Row
    from ctclip_client.batch.names import Names
    from ctclip_client.cli.predictions import Prediction

SUMMARY = "Score chest CTs: findings, probabilities and how they came about."

_MAPS_FOLDER = Path("relevance")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    from ctclip_client.cli.many_options import add_run_options
    from ctclip_client.cli.serving import add_server_options

    add_run_options(parser)
    add_server_options(parser)
    what = parser.add_argument_group("what to score (the server's own findings by default)")
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSON [{"finding": …, "present": …, "absent": …}] instead of the server\'s findings',
    )
    what.add_argument(
        "--classify",
        action="store_true",
        help="probabilities of the release's trained head (ClassFine or linear), without logits",
    )
    what.add_argument(
        "--explain",
        type=Path,
        nargs="?",
        const=_MAPS_FOLDER,
        metavar="DIR",
        help="also write, for each scan and finding, a NIfTI map that lies on the scan, into a "
        f"folder of the scan's name in DIR (./{_MAPS_FOLDER} where no DIR is given; put it after "
        "the scans then)",
    )
    output = parser.add_argument_group(
        "output (a table where none of these is given)",
        "The same command goes on where a run into a file was ended, by whatever.",
    )
    output.add_argument("--json", action="store_true", help="one JSON object a line and scan")
    output.add_argument(
        "--jsonl", type=Path, metavar="FILE",
        help="the same into a file, appended as results come, with a row for what failed",
    )  # fmt: skip
    output.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="one row a scan and finding, written at the end; until all is done, what is there "
        "lies in FILE.journal.jsonl",
    )
    output.add_argument(
        "--parquet", type=Path, metavar="FILE", help="the same as Parquet (needs pyarrow)"
    )
    output.add_argument(
        "--embedding", action="store_true", help="add image_embedding to --json and --jsonl"
    )
    add_reading_options(parser, "reading")


def run(args: argparse.Namespace) -> int:
    """Score every scan; one that fails is reported and the others go on.

    Raises:
        CTClipError: wrong options, an output that cannot be written, or a server that has gone or
            changed its release.
    """
    from ctclip_client.batch.folders import folder_names
    from ctclip_client.batch.names import Names
    from ctclip_client.batch.tables import require_pyarrow
    from ctclip_client.cli.many import Work, planned, run_scans
    from ctclip_client.cli.outputs import printed
    from ctclip_client.cli.run_files import opened_journal, tables_from
    from ctclip_client.cli.serving import check_server_options
    from ctclip_client.prompts import read_prompts
    from ctclip_client.system.signals import termination_interrupts

    _check_options(args)
    if args.parquet is not None:
        require_pyarrow()
    _check_files(args)
    check_server_options(args)
    names = Names(args.hash_names)
    prompts = args.prompts and read_prompts(args.prompts)
    tables = {"--csv": args.csv, "--parquet": args.parquet}
    with ExitStack() as stack:
        stack.enter_context(termination_interrupts())
        journal = stack.enter_context(opened_journal(args, args.jsonl, tables, _asked(args)))
        plan = planned(args, journal, names)
        folders = {} if args.explain is None else folder_names(plan.scans, names)
        _check_beside_maps(args, folders.values())
        show = stack.enter_context(
            printed(
                as_json=args.json, table=journal is None and not args.json,
                embedding=args.embedding, has_file=journal is not None or args.explain is not None,
            )
        )  # fmt: skip
        do = _Scoring(args, names, prompts, folders)
        work = Work("Scoring", _ensemble(args).name, do.prepare, do.score, do.row, show)
        code = run_scans(args, work, plan, journal)
        if journal is not None:
            _tell_missing_maps(args, journal, folders)
            tables_from(journal, plan.keys, _writers(args), asked_for=args.jsonl is not None)
    return code


class _Scoring:
    """One scan, from its volume to what is kept of it."""

    def __init__(
        self, args: argparse.Namespace, names: Names, prompts: tuple[Finding, ...] | None,
        folders: dict[Any, Path],
    ) -> None:  # fmt: skip
        self._args, self._names, self._prompts, self._folders = args, names, prompts, folders

    def prepare(self) -> None:
        """Make the folder of the maps."""
        if self._args.explain is not None:
            try:
                self._args.explain.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InvalidInput(
                    f"--explain: {self._args.explain}: {error.strerror or error}.",
                    "Name a folder that you may write to.",
                ) from error

    def score(self, client: Client, scan: Scan, volume: Volume, read_ms: float) -> Prediction:
        """Ask the server, and write maps where they are asked for."""
        from ctclip_client import save_relevance
        from ctclip_client.batch.service import StopError
        from ctclip_client.cli.many import predicted
        from ctclip_client.results import Scores

        scores: Classification
        if self._folders:
            explanation = client.explain(volume)
            started = time.perf_counter()
            folder = self._args.explain / self._folders[self._names.key(scan)]
            try:
                index = save_relevance(explanation, volume, folder)
            except InvalidInput as error:  # the next scan would be scored for nothing
                raise StopError(error) from None
            maps_ms = (time.perf_counter() - started) * 1000
            # Without the maps, which lie on the disk: many may wait for their turn to be told.
            kept = {each.name: getattr(explanation, each.name) for each in fields(Scores)}
            scores = Scores(**kept)
            found = predicted(scores, scan, volume, self._names, read_ms)
            return replace(found, maps_index=index, maps_ms=maps_ms)
        if self._args.classify:
            scores = client.classify(volume)
        elif self._prompts is not None:
            scores = client.zero_shot(volume, self._prompts)
        else:
            scores = client.pathologies(volume)
        return predicted(scores, scan, volume, self._names, read_ms)

    def row(self, scan: Prediction) -> tuple[Row, None]:
        """What the journal keeps: the object of the contract."""
        return scan.to_json(embedding=self._args.embedding), None


def _asked(args: argparse.Namespace) -> str:
    from ctclip_client.cli.many_options import asked, asked_of_reading

    return asked(
        command="predict", prompts=args.prompts, classify=args.classify,
        explain=args.explain and str(args.explain), embedding=args.embedding,
        **asked_of_reading(args),
    )  # fmt: skip


def _writers(args: argparse.Namespace) -> list[Any]:
    from ctclip_client.batch.tables import write_csv, write_scores_parquet

    def csv(journal: Journal) -> None:
        write_csv(args.csv, journal.rows())

    def parquet(journal: Journal) -> None:
        write_scores_parquet(args.parquet, journal.rows())

    return [csv] * (args.csv is not None) + [parquet] * (args.parquet is not None)


def _check_files(args: argparse.Namespace) -> None:
    from ctclip_client.cli.run_files import check_files

    outputs = {"--jsonl": args.jsonl, "--csv": args.csv, "--parquet": args.parquet}
    check_files(args, outputs, [("the file of --prompts", args.prompts)])


def _check_beside_maps(args: argparse.Namespace, folders: Iterable[Path]) -> None:
    """Refuse a file where the maps of a scan will lie, or the folders above them."""
    for folder in folders:
        maps = (args.explain / folder).resolve()
        for option in ("csv", "jsonl", "parquet"):
            path = getattr(args, option)
            place = path and path.resolve()
            if place and (place == maps or place in maps.parents or maps in place.parents):
                raise InvalidInput(
                    f"--{option}: {path} is where --explain puts its maps "
                    f"({args.explain / folder}).",
                    "Name a file beside that folder.",
                )


def _tell_missing_maps(
    args: argparse.Namespace, journal: Journal, folders: Mapping[Any, Path]
) -> None:
    from ctclip_client.maps.relevance import INDEX_FILE
    from ctclip_client.system.terminal import say

    done = (key for key, entry in journal.entries.items() if key in folders and not entry.kind)
    missing = sum(not (args.explain / folders[key] / INDEX_FILE).is_file() for key in done)
    if missing:
        say(
            f"note: maps are no longer in {args.explain} (scans that were scored before: "
            f"{missing}); --again makes them anew"
        )


def _ensemble(args: argparse.Namespace) -> Ensemble:
    if args.explain is not None:
        return EXPLAIN
    if args.classify:
        return CLASSIFY
    return PATHOLOGIES if args.prompts is None else ZERO_SHOT


def _check_options(args: argparse.Namespace) -> None:
    from ctclip_client.cli.flag_values import flag, is_given, reading_options

    asked = [f"--{name}" for name in ("prompts", "classify", "explain") if getattr(args, name)]
    if len(asked) > 1:
        raise InvalidInput(
            f"{' and '.join(asked)} exclude each other.",
            "Maps exist for the findings that the release was exported with, neither for other "
            "prompts (ctclip export --prompts makes them its own) nor for a trained head.",
        )
    if args.explain is not None and args.explain.is_file():
        raise InvalidInput(
            f"--explain took {args.explain} for its folder, and that is a file.",
            "Put --explain after the scans, or name a folder: --explain DIR.",
        )
    if args.embedding and not (args.json or args.jsonl):
        raise InvalidInput(
            "--embedding has no place in a table or CSV.",
            "Add --json or --jsonl FILE; ctclip embed image writes embeddings as Parquet or .npz.",
        )
    if not (args.jsonl or args.csv or args.parquet):
        for name in ("again", "retry_failed"):
            if is_given(args, name):
                raise InvalidInput(
                    f"{flag(name)} is about the file of an earlier run, and none is named.",
                    "Add that run's --jsonl, --csv or --parquet FILE.",
                )
    reading_options(args)  # refused once for all scans rather than once for each of them
