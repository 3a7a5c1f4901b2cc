"""`ctclip fit-head`: a linear head on embeddings, for `ctclip export --head`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.errors import EXIT_OK, InvalidInput
from ctclip_client.system.terminal import command_line, say

if TYPE_CHECKING:
    from ctclip_analysis.heads.train import Matched, TrainedHead
    from ctclip_analysis.labels import Labels

SUMMARY = "Fit a linear head to embeddings and labels of your own."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--embeddings", type=Path, required=True, metavar="FILE",
        help="of ctclip embed image: .npz, .parquet or .jsonl",
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="CSV",
        help="a row a scan, its file name in VolumeName or in the first column, a column a class: "
        "1, 0, or empty where nobody knows; a column 'patient' where names do not tell it",
    )  # fmt: skip
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME",
        help="columns of the labels to fit, in this order (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the head to write, as JSON"
    )
    parser.add_argument("--seed", type=int, default=0, help="by which patients come into folds")
    parser.add_argument("--json", action="store_true", help="print an object, and no table")


def run(args: argparse.Namespace) -> int:
    """Fit, write the head, and say how good it is on patients that it has not seen.

    Raises: InvalidInput.
    """
    from ctclip_analysis.embeddings import read_embeddings
    from ctclip_analysis.heads.train import matched, train
    from ctclip_analysis.labels import read_labels
    from ctclip_analysis.wording import counted
    from ctclip_client.cli.output_files import check_output_files
    from ctclip_client.system.files import whole_file
    from ctclip_client.system.progress import Stages

    inputs = [("the file of --embeddings", args.embeddings), ("the file of --labels", args.labels)]
    check_output_files({"--out": args.out}, inputs)
    if not 0 <= args.seed < 2**32:
        raise InvalidInput(f"--seed: got {args.seed}, expected 0 to {2**32 - 1}.")
    embeddings = read_embeddings("--embeddings", args.embeddings, "image")
    labels = read_labels(args.labels, args.classes)
    _check_classes(args, labels)
    scans = matched(embeddings, labels)
    _tell(labels, scans)
    with Stages() as stages:
        classes = counted(len(labels.findings), "class")
        title = f"Fitting {classes} to {counted(len(scans.vectors), 'scan')}"
        with stages.stage(title, len(labels.findings)) as advance:
            trained = train(embeddings, labels, scans, args.seed, advance)
    with whole_file(args.out) as file:
        trained.head.write(file)
    if embeddings.origin.random_weights:
        say("RANDOM WEIGHTS: these embeddings are of a demo checkpoint; the head means nothing.")
    if args.json:
        print(json.dumps(_object(trained, scans), allow_nan=False))
    else:
        _print_table(trained)
    say(f"Serve it: {command_line('ctclip', 'export', '--head', args.out)} …")
    return EXIT_OK


def _check_classes(args: argparse.Namespace, labels: Labels) -> None:
    from ctclip_client.release.linear_head import CLASS_NAME, is_class_name

    missing = [name for name in args.classes or () if name not in labels.findings]
    if missing:
        raise InvalidInput(
            f"--classes: {labels.path} has no column {', '.join(map(repr, missing))}.",
            f"It has: {', '.join((*labels.findings, *labels.unused))}.",
        )
    if not labels.findings:
        raise InvalidInput(
            f"--labels: {labels.path} has no column of a class.",
            "Expected a column a class beside that of the scan: 1, 0, or empty.",
        )
    for name in labels.findings:
        if not is_class_name(name):
            raise InvalidInput(
                f"--labels: {labels.path}: a column is called {name!r:.60}, expected {CLASS_NAME}.",
                "Give it another.",
            )


def _tell(labels: Labels, scans: Matched) -> None:
    import numpy as np

    from ctclip_analysis.wording import first_of

    some = 0 < scans.alone < len(scans.vectors)
    more = f"; scans whose names do not, each counted as one: {scans.alone:,}" if some else ""
    say(f"patients told by {scans.told_by}{more}")
    for names, what in (
        (scans.without_labels, "no row of the labels is about"),
        (scans.without_scans, "there is no embedding of"),
    ):
        if names:
            say(f"note: {what} {first_of(names)}: left out")
    unknown = np.isnan(scans.values).sum(axis=0)
    for name, count in zip(labels.findings, unknown, strict=True):
        if count:
            say(f"note: scans without a label for {name}, left out of it: {count:,}")


def _object(trained: TrainedHead, scans: Matched) -> dict[str, object]:
    cross_validation = trained.head.cross_validation
    return {
        "trained_on": vars(trained.head.trained_on), **cross_validation,
        "float32_difference": trained.float32_difference,
        "scans_without_labels": scans.without_labels, "labels_without_scans": scans.without_scans,
    }  # fmt: skip


def _print_table(trained: TrainedHead) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ctclip_client.cli.tables import print_table
    from ctclip_client.system.terminal import printable

    said = trained.head.cross_validation
    random = trained.head.trained_on.random_weights
    table = Table(caption="RANDOM WEIGHTS: these numbers mean nothing." if random else None)
    table.add_column("Class", overflow="fold", min_width=12)
    for title in ("Scans", "Positive", "Patients", "AUROC", "AP", "AP by\nchance"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in trained.results:
        table.add_row(
            Text(printable(each.name)), f"{each.scans:,}", f"{each.positives:,}",
            f"{each.patients:,}", f"{each.auroc:.3f}",
            f"{each.average_precision:.3f}", f"{each.positives / each.scans:.3f}",
        )  # fmt: skip
    print_table(Console(), table)
    print(
        f"On patients that the fit has not seen: {said['folds']} folds of patients, the strength "
        f"of regularisation chosen in {said['inner_folds']} folds of the others, seed "
        f"{said['seed']}.\nServed in float32, a probability differs by at most "
        f"{trained.float32_difference:.0e}."
    )
