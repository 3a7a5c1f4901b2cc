"""`ctclip predict`: score chest CTs with a server and print or write the findings."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.cli.connection import (
    URL_VARIABLE,
    add_connection_options,
    connection_files,
    read_connection,
    url_of_environment,
)
from ctclip_client.cli.flag_values import add_reading_options, rescale
from ctclip_client.contract import CLASSIFY, EXPLAIN, PATHOLOGIES, ZERO_SHOT, Ensemble
from ctclip_client.errors import EXIT_OK, EXIT_SOME_FAILED, CTClipError, InvalidInput, ServerError
from ctclip_client.system.terminal import printable

if TYPE_CHECKING:
    from ctclip_client import Classification, Client, Finding, Volume
    from ctclip_client.cli.predictions import Prediction
    from ctclip_client.transport.connection import Connection

SUMMARY = "Score chest CTs: findings, probabilities and how they came about."

Advance = Callable[[int], None]
_MAPS_FOLDER = Path("relevance")
_URL = "localhost:8001"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="NIfTI files (.nii, .nii.gz)"
    )
    add_connection_options(
        parser, f"gRPC service of the server; or {URL_VARIABLE} ({_URL} if neither is given)"
    )
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
        help="probabilities of the release's trained head (ClassFine), without logits",
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
    output = parser.add_argument_group("output (a table where none of these is given)")
    output.add_argument("--json", action="store_true", help="one JSON object a line and scan")
    output.add_argument("--jsonl", type=Path, metavar="FILE", help="the same, into a file")
    output.add_argument("--csv", type=Path, metavar="FILE", help="one row a scan and finding")
    output.add_argument(
        "--embedding", action="store_true", help="add image_embedding to --json and --jsonl"
    )
    add_reading_options(parser, "reading")


def run(args: argparse.Namespace) -> int:
    """Score every scan; one that fails is reported and the others go on.

    Raises:
        CTClipError: wrong options, or an output that cannot be written.
    """
    from ctclip_client.cli.output_files import check_output_files
    from ctclip_client.cli.outputs import outputs
    from ctclip_client.cli.scans import ahead, folder_names
    from ctclip_client.prompts import read_prompts
    from ctclip_client.system.progress import Stages
    from ctclip_client.system.signals import termination_interrupts

    _check_options(args)
    check_output_files(
        {"--jsonl": args.jsonl, "--csv": args.csv},
        [
            *(("one of the scans", path) for path in args.paths),
            ("the file of --prompts", args.prompts),
            *connection_files(args),
        ],
    )
    prompts = args.prompts and read_prompts(args.prompts)
    folders = {} if args.explain is None else folder_names(args.paths)
    _check_beside_maps(args, folders.values())
    done = 0
    failures: list[int] = []  # exit codes: an error holds its scan by the traceback
    with ExitStack() as stack:
        stack.enter_context(termination_interrupts())
        client = stack.enter_context(_connection(args).client())
        emit = stack.enter_context(outputs(args))
        # Once, and before thousands of scans are read for nothing.
        client.check_ready(_ensemble(args).name)
        if args.explain is not None:
            try:
                args.explain.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InvalidInput(
                    f"--explain: {args.explain}: {error.strerror or error}.",
                    "Name a folder that you may write to.",
                ) from error
        stages = Stages(transient=True)
        advance: Advance = lambda _: None  # noqa: E731
        if len(args.paths) > 1 or sys.stderr.isatty():
            stack.enter_context(stages)
            steps = len(args.paths) if len(args.paths) > 1 else None
            advance = stack.enter_context(stages.stage("Scoring", steps))
        for path, reading in ahead(args.paths, lambda path: _read(path, args)):
            maps = args.explain / folders[path] if folders else None
            try:
                scan = _predict(client, path, *reading.take(), maps=maps, prompts=prompts,
                                classify=args.classify)  # fmt: skip
            except CTClipError as error:
                failures.append(error.exit_code)
                with stages.paused():
                    _report(path, error)
            else:
                done += 1
                with stages.paused():
                    # What cannot be written ends the run: it is not this scan's fault.
                    if not emit(scan):
                        break
            advance(1)
    count = len(args.paths)
    if count > 1:
        left = count - done - len(failures)
        why = f", {left} left: nobody reads standard output" if left else ""
        print(f"{count} scans: {done} scored, {len(failures)} failed{why}", file=sys.stderr)
    if not failures:
        return EXIT_OK
    return EXIT_SOME_FAILED if done else max(failures)


def _check_beside_maps(args: argparse.Namespace, folders: Iterable[Path]) -> None:
    """Refuse a file where the maps of a scan will lie, or the folders above them."""
    for folder in folders:
        maps = (args.explain / folder).resolve()
        for option, path in (("--csv", args.csv), ("--jsonl", args.jsonl)):
            place = path and path.resolve()
            if place and (place == maps or place in maps.parents or maps in place.parents):
                raise InvalidInput(
                    f"{option}: {path} is where --explain puts its maps ({args.explain / folder}).",
                    "Name a file beside that folder.",
                )


def _connection(args: argparse.Namespace) -> Connection:
    if args.url is not None:
        return read_connection(args, args.url)
    return read_connection(args, url_of_environment() or _URL, URL_VARIABLE)


def _read(path: Path, args: argparse.Namespace) -> tuple[Volume, float]:
    """The volume, and milliseconds."""
    from ctclip_client import read_volume

    started = time.perf_counter()
    volume = read_volume(
        path, as_stored=args.as_stored, spacing_mm=args.spacing, rescale=rescale(args)
    )
    return volume, (time.perf_counter() - started) * 1000


def _predict(
    client: Client, path: Path, volume: Volume, read_ms: float, *, maps: Path | None,
    prompts: tuple[Finding, ...] | None, classify: bool,
) -> Prediction:  # fmt: skip
    from ctclip_client import save_relevance
    from ctclip_client.cli.predictions import Prediction
    from ctclip_client.coverage import coverage_notes

    index, maps_ms = None, 0.0
    scores: Classification
    if maps is not None:
        scores = explanation = client.explain(volume)
        started = time.perf_counter()
        index = save_relevance(explanation, volume, maps)
        maps_ms = (time.perf_counter() - started) * 1000
    elif classify:
        scores = client.classify(volume)
    elif prompts is not None:
        scores = client.zero_shot(volume, prompts)
    else:
        scores = client.pathologies(volume)
    coverage: tuple[str, ...] = ()
    with suppress(ServerError):  # it keeps its geometry to itself: that is no fault of the scores
        geometry, _ = scores.provenance.geometry()
        coverage = coverage_notes(volume.voxels.shape, volume.spacing_mm, geometry)
    # Not the volume itself: the next scan needs its memory.
    return Prediction(
        str(path), scores, volume.spacing_mm, volume.rescale, volume.source, read_ms, index,
        maps_ms, coverage,
    )  # fmt: skip


def _ensemble(args: argparse.Namespace) -> Ensemble:
    if args.explain is not None:
        return EXPLAIN
    if args.classify:
        return CLASSIFY
    return PATHOLOGIES if args.prompts is None else ZERO_SHOT


def _check_options(args: argparse.Namespace) -> None:
    asked = [f"--{name}" for name in ("prompts", "classify", "explain") if getattr(args, name)]
    if len(asked) > 1:
        raise InvalidInput(
            f"{' and '.join(asked)} exclude each other.",
            "Maps exist for the findings that the release was exported with, neither for other "
            "prompts (ctclip export --prompts makes them its own) nor for a ClassFine head.",
        )
    if args.explain is not None and args.explain.is_file():
        raise InvalidInput(
            f"--explain took {args.explain} for its folder, and that is a file.",
            "Put --explain after the scans, or name a folder: --explain DIR.",
        )
    if args.embedding and not (args.json or args.jsonl):
        raise InvalidInput(
            "--embedding has no place in a table or CSV.", "Add --json or --jsonl FILE."
        )
    rescale(args)  # refused once for all scans rather than once for each of them


def _report(path: Path, error: CTClipError) -> None:
    cause = error.cause if str(path) in error.cause else f"{path}: {error.cause}"
    remedy = f"\n       {printable(error.remedy)}" if error.remedy else ""
    print(f"error: {printable(cause)}{remedy}", file=sys.stderr, flush=True)
