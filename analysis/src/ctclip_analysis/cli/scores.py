"""`ctclip evaluate scores`, the word that is taken where none is given."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_analysis.evaluate import BARS
from ctclip_client.cli.output_files import check_output_files
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK, InvalidInput

if TYPE_CHECKING:
    from ctclip_analysis.evaluate.cases import Cases
    from ctclip_analysis.evaluate.operating_points import OperatingPoints
    from ctclip_analysis.evaluate.resampling import Draws
    from ctclip_analysis.evaluate.result import Against, Evaluation
    from ctclip_analysis.predictions import Predictions

SUMMARY = (
    "Compare predictions with labels (the default): AUROC, AP, F1, precision, sensitivity, "
    "specificity, calibration; with --against, two precisions or servers with each other."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--predictions", type=Path, required=True, metavar="FILE",
        help="what ctclip predict writes (--csv, --parquet, --jsonl), or a CSV with a scan's name "
        "in the first column and a column of probabilities for each finding",
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="CSV",
        help="a row a scan (its file name in VolumeName, NoteAcc_DEID or the first column), a "
        "column a finding with 1 or 0; as CT-RATE's or RAD-ChestCT's",
    )  # fmt: skip
    parser.add_argument(
        "--group", choices=("reconstruction", "scan"), default="reconstruction",
        help="what is a case: each file, or a scan with the mean of its reconstructions (names as "
        "CT-RATE's: valid_1_a_2)",
    )  # fmt: skip
    limits = parser.add_argument_group("thresholds, for F1, precision, sensitivity, specificity")
    limits.add_argument(
        "--fit-thresholds", type=Path, metavar="FILE.json", help="fit them on these scans; write"
    )
    limits.add_argument(
        "--method", choices=("youden", "f1"),
        help="what a threshold makes largest: sensitivity + specificity - 1 (default), or F1",
    )  # fmt: skip
    limits.add_argument(
        "--thresholds", type=Path, metavar="FILE.json", help="apply those fitted on other scans"
    )
    limits.add_argument(
        "--same-data", action="store_true",
        help="apply them to the scans that they were fitted on, too; the output says so",
    )  # fmt: skip
    parity = parser.add_argument_group("parity of the task")
    parity.add_argument(
        "--against", type=Path, metavar="FILE",
        help="the float32 predictions that --predictions (of another precision or server) must "
        "not fall behind, of the same scans; exit code 1 below the bar",
    )  # fmt: skip
    parity.add_argument(
        "--bar", type=_share, metavar="SHARE",
        help=f"least share of the macro AUROC of --against (default: {BARS[0]})",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    output.add_argument("--report", type=Path, metavar="FILE.html", help="write a page with curves")


def run(args: argparse.Namespace) -> int:
    """Judge, print, and say by the exit code whether the parity of the task holds."""
    from ctclip_analysis.evaluate.as_json import as_json
    from ctclip_analysis.evaluate.operating_points import write
    from ctclip_client.system.files import whole_file

    _check_options(args)
    evaluation = evaluate(args)
    if args.report is not None:
        from ctclip_analysis.evaluate.page import as_page

        page = as_page(evaluation).encode()
        with whole_file(args.report) as file:
            file.write(page)
    if evaluation.fitted is not None:
        write(*evaluation.fitted, evaluation.predictions, evaluation.cases)
    if args.json:
        json.dump(as_json(evaluation), sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        from rich.console import Console

        from ctclip_analysis.evaluate.show import show

        console = Console(width=None if sys.stdout.isatty() else 120, markup=False, highlight=False)
        show(console, evaluation, args.report)
    against = evaluation.against
    return EXIT_OK if against is None or against.passed else EXIT_CHECK_FAILED


def evaluate(args: argparse.Namespace) -> Evaluation:
    """Read what the command line names, and judge it. Nothing is printed or written."""
    from ctclip_analysis.evaluate.cases import join
    from ctclip_analysis.evaluate.metrics import score
    from ctclip_analysis.evaluate.resampling import draw
    from ctclip_analysis.evaluate.result import Evaluation
    from ctclip_analysis.labels import content_of
    from ctclip_analysis.predictions import read_predictions

    predictions = read_predictions(args.predictions)
    labels = content_of(args.labels)
    cases = join(predictions, args.labels, args.group, labels_content=labels)
    points, fitted = _points(args, predictions, cases)
    draws = draw(cases.patients.ids)
    against = None if args.against is None else _against(args, labels, cases, draws)
    return Evaluation(
        predictions, args.labels, cases, score(cases, draws, points), draws.patients, points,
        None if fitted is None else (args.fit_thresholds, fitted), against,
        datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _points(
    args: argparse.Namespace, predictions: Predictions, cases: Cases
) -> tuple[OperatingPoints | None, OperatingPoints | None]:
    """The thresholds that are applied, and those that are to be written."""
    from ctclip_analysis.evaluate.operating_points import fit, read

    fitted = None if args.fit_thresholds is None else fit(cases, args.method or "youden")
    if args.thresholds is None:
        return fitted if args.same_data else None, fitted
    points = read(args.thresholds, predictions, cases)
    if points.same_data and not args.same_data:
        raise InvalidInput(
            f"--thresholds: {args.thresholds}: was fitted on {points.shared:,} of these "
            f"{len(cases.digests):,} scans: what it yields on them says nothing of others.",
            "Give predictions of other scans; --same-data shows it nevertheless, and says so.",
        )
    return points, fitted


def _against(args: argparse.Namespace, labels: bytes, cases: Cases, draws: Draws) -> Against:
    """labels: what is in their file."""
    from ctclip_analysis.evaluate.cases import join
    from ctclip_analysis.evaluate.result import Against
    from ctclip_analysis.evaluate.task_parity import compare_cases
    from ctclip_analysis.predictions import read_predictions

    reference = read_predictions(args.against, "--against")
    other = join(reference, args.labels, args.group, labels_content=labels)
    return Against(reference, compare_cases(cases, other, draws), args.bar or BARS[0])


def _check_options(args: argparse.Namespace) -> None:
    if args.same_data and args.fit_thresholds is None and args.thresholds is None:
        raise InvalidInput(
            "--same-data goes with --fit-thresholds or --thresholds.", "Give one, or leave it out."
        )
    for option, value, goes_with, other in (
        ("--bar", args.bar, "--against", args.against),
        ("--method", args.method, "--fit-thresholds", args.fit_thresholds),
    ):
        if value is not None and other is None:
            raise InvalidInput(f"{option} goes with {goes_with}.", "Give both, or neither.")
    inputs = (
        ("the predictions", args.predictions), ("the labels", args.labels),
        ("the file of --thresholds", args.thresholds), ("the file of --against", args.against),
    )  # fmt: skip
    outputs = {"--report": args.report, "--fit-thresholds": args.fit_thresholds}
    check_output_files(outputs, inputs)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:  # false for NaN, too
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a share above 0 and up to 1")
    return value
