"""`ctclip predict`: score chest CTs with a server and print or write the findings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.cli.flag_values import add_reading_options
from ctclip_client.errors import InvalidInput

if TYPE_CHECKING:
    from ctclip_client.batch.journal import Journal
    from ctclip_client.batch.names import Key, Names
    from ctclip_client.batch.plan import Plan
    from ctclip_client.cli.reports import Reports

SUMMARY = "Find what CT-CLIP says of chest CTs: a probability for each finding."

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
        "output (a table where none of these but --report is given)",
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
        "--report",
        type=Path,
        metavar="FILE.html|DIR",
        help="also a page to look at, with the CT, its maps and how it was read; DIR, which is "
        "whatever does not end in .html: a page for each scan, and index.html",
    )
    output.add_argument(
        "--thresholds", type=Path, metavar="FILE",
        help="on the page, which findings reach the thresholds that ctclip evaluate has fitted",
    )  # fmt: skip
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
    from ctclip_client.cli.reports import reports_of
    from ctclip_client.cli.run_files import opened_journal, tables_from
    from ctclip_client.cli.scoring import Scoring
    from ctclip_client.cli.serving import check_server_options
    from ctclip_client.prompts import read_prompts
    from ctclip_client.report.mark import scan_mark
    from ctclip_client.system.signals import termination_interrupts

    _check_options(args)
    if args.parquet is not None:
        require_pyarrow()
    reports = reports_of(args)
    _check_files(args, reports)
    check_server_options(args)
    names = Names(args.hash_names)
    prompts = args.prompts and read_prompts(args.prompts)
    if prompts is not None and reports is not None and reports.thresholds is not None:
        reports.thresholds.check_known(entry.finding for entry in prompts)
    index = None if reports is None else reports.index
    tables = {"--csv": args.csv, "--parquet": args.parquet, "--report": index}
    with ExitStack() as stack:
        stack.enter_context(termination_interrupts())
        journal = stack.enter_context(opened_journal(args, args.jsonl, tables, _asked(args)))
        plan = planned(args, journal, names)
        folders = {} if args.explain is None else folder_names(plan.scans, names)
        pages = {} if reports is None else reports.pages(plan.scans, names)
        # A mark asks the disk for the scan's folder: only where it is needed.
        marked = plan.scans if folders or pages else ()
        marks = {names.key(each): scan_mark(each.path, each.series) for each in marked}
        _check_beside_maps(args, folders.values())
        _check_beside_pages(args, pages.values())
        _check_maps_free(args, plan, folders, marks, names)
        if reports is not None:
            reports.check_free(plan, pages, marks, names, again=args.again)
        in_files = bool(args.jsonl or args.csv or args.parquet)
        show = stack.enter_context(
            printed(
                as_json=args.json, table=not in_files and not args.json, embedding=args.embedding,
                has_file=in_files or reports is not None or args.explain is not None,
            )
        )  # fmt: skip
        do = Scoring(
            args, names, prompts=prompts, folders=folders, marks=marks, reports=reports,
            pages=pages,
        )  # fmt: skip
        work = Work("Scoring", "scored", do.ensemble.name, do.prepare, do.score, do.row, show)
        code = run_scans(args, work, plan, journal)
        if journal is not None:
            _tell_missing_maps(args, journal, folders)
            tables_from(journal, plan.keys, _writers(args), asked_for=args.jsonl is not None)
        if reports is not None:
            reports.end(journal)
    return code


def _asked(args: argparse.Namespace) -> str:
    from ctclip_client.cli.many_options import asked, asked_of_reading

    pages = {"report": str(args.report), "thresholds": args.thresholds} if args.report else {}
    return asked(
        command="predict", prompts=args.prompts, classify=args.classify,
        explain=args.explain and str(args.explain), embedding=args.embedding,
        **pages, **asked_of_reading(args),
    )  # fmt: skip


def _writers(args: argparse.Namespace) -> list[Callable[[Journal], None]]:
    from ctclip_client.batch.tables import write_csv, write_scores_parquet

    def csv(journal: Journal) -> None:
        write_csv(args.csv, journal.rows())

    def parquet(journal: Journal) -> None:
        write_scores_parquet(args.parquet, journal.rows())

    asked_for = {csv: args.csv, parquet: args.parquet}
    return [write for write, given in asked_for.items() if given is not None]


def _check_files(args: argparse.Namespace, reports: Reports | None) -> None:
    from ctclip_client.cli.run_files import check_files

    outputs = {"--jsonl": args.jsonl, "--csv": args.csv, "--parquet": args.parquet,
               "--report": reports and reports.file}  # fmt: skip
    inputs = [("the file of --prompts", args.prompts), ("that of --thresholds", args.thresholds)]
    check_files(args, outputs, inputs)


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


def _check_beside_pages(args: argparse.Namespace, pages: Iterable[Path]) -> None:
    """Refuse a file of results where the page of a scan will lie."""
    places = {page.resolve() for page in pages}
    for option in ("csv", "jsonl", "parquet"):
        path = getattr(args, option)
        if path is not None and path.resolve() in places:
            raise InvalidInput(
                f"--{option}: {path} is where --report puts the page of a scan.",
                "Name another file.",
            )


def _check_maps_free(
    args: argparse.Namespace,
    plan: Plan,
    folders: Mapping[Key, Path],
    marks: Mapping[Key, str],
    names: Names,
) -> None:
    """Refuse to replace maps of another scan, but where that scan gets new ones, too."""
    from ctclip_client.maps.relevance import INDEX_FILE, mark_of

    if not folders:
        return
    anew = set(marks.values()) if args.again else set()
    for scan in plan.todo:
        key = names.key(scan)
        index = args.explain / folders[key] / INDEX_FILE
        # Path.exists raises where a folder on the way cannot be looked into.
        if scan.refused is not None or not os.path.exists(index):  # noqa: PTH110
            continue
        there = mark_of(index)
        if there == marks[key] or there in anew:
            continue
        whose = "does not say whose maps it names" if there is None else "is of another scan's maps"
        raise InvalidInput(
            f"--explain: {index} {whose}, and that of {key[0]} would replace it.",
            "Name another folder, or take that one away, as where the scans were moved.",
        )


def _tell_missing_maps(
    args: argparse.Namespace, journal: Journal, folders: Mapping[Key, Path]
) -> None:
    from ctclip_client.system.terminal import say

    rows = (row for row in journal.rows() if journal.key_of(row) in folders)
    # Path.is_file raises where a folder on the way cannot be looked into.
    missing = sum(not os.path.isfile(row["relevance"]) for row in rows)  # noqa: PTH113
    if missing:
        say(
            f"note: maps are no longer in {args.explain} (scans that were scored before: "
            f"{missing}); --again makes them anew"
        )


def _check_options(args: argparse.Namespace) -> None:
    from ctclip_client.cli.flag_values import flag, is_given, reading_options
    from ctclip_client.cli.reports import is_page

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
    folder = args.report is not None and not is_page(args.report)
    if not (args.jsonl or args.csv or args.parquet or folder):
        for name in ("again", "retry_failed"):
            if is_given(args, name):
                raise InvalidInput(
                    f"{flag(name)} is about the file of an earlier run, and none is named.",
                    "Add that run's --jsonl, --csv or --parquet FILE, or its --report DIR.",
                )
    reading_options(args)  # refused once for all scans rather than once for each of them
