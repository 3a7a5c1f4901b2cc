"""`ctclip series`: what series lie at a path, and which would be taken."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctclip_client.cli.flag_values import some_path
from ctclip_client.errors import EXIT_OK, Unreadable

if TYPE_CHECKING:
    from ctclip_client.readers.dicom.series import DicomSeries, Found

SUMMARY = "List the series of a folder, an archive or a file, and which would be taken."

_STUDIES = (
    "Several studies: ctclip predict scores one series of each, those marked by *; read_volume "
    "needs one of them named."
)


@dataclass(frozen=True)
class Row:
    """One series. What a terminal alone may show (`for_eyes`) is free text of the header.

    study: from 1, in order of the list. matrix: rows and columns. step_mm: between slices.
    left_out: why it is not taken by default; "" where it may be. taken: whether it is.
    """

    path: str
    series: str | None = None
    study: int | None = None
    images: int | None = None
    matrix: tuple[int, int] | None = None
    step_mm: float | None = None
    extent_mm: float | None = None
    left_out: str = ""
    taken: bool = True
    for_eyes: tuple[str, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Without the header's free text, which may name the patient."""
        content = asdict(self)
        del content["for_eyes"]
        return content


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "path", type=some_path, metavar="PATH", help="a folder, an archive or a file"
    )
    parser.add_argument(
        "--json", action="store_true",
        help="one JSON object a line and series, without descriptions: they may name the patient",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """List what there is.

    Raises: Unreadable.
    """
    try:
        rows = list(_rows(args.path))
    except OSError as error:
        from ctclip_client.readers.remedies import not_opened

        raise not_opened(args.path, error) from error
    if not rows:
        raise Unreadable(f"{args.path}: no scan and no DICOM series.", "Name another folder.")
    if args.json:
        for row in rows:
            print(json.dumps(row.to_json(), allow_nan=False))
    else:
        _print(rows)
    return EXIT_OK


def _rows(path: Path) -> Iterator[Row]:
    from ctclip_client.readers.archive import Packed
    from ctclip_client.readers.dicom.series import DicomSeries, Found, dicom_files, series_of
    from ctclip_client.readers.registry import SUFFIXES, format_of
    from ctclip_client.readers.walk import Closed, files_below

    if path.is_dir():
        closed: Closed = []
        files = list(files_below(path, closed))
        found = series_of(dicom_files(files, closed), closed)
        yield from _of_dicom(path, found)
        told = {file for file, _ in found.damaged}
        for file in sorted(files):
            if file.name.lower().endswith(SUFFIXES) and file not in told:
                yield Row(str(file))
        return
    series = format_of(path).series(path)
    within = [each.within if isinstance(each, Packed) else each for each in series]
    dicom = tuple(each for each in within if isinstance(each, DicomSeries))
    if dicom:
        yield from _of_dicom(path, Found(dicom, dicom[0].damaged))
    else:
        yield Row(str(path))


def _of_dicom(path: Path, found: Found) -> Iterator[Row]:
    from ctclip_client.readers.dicom.series import preferred

    taken = preferred(found)
    studies = {study: n for n, study in enumerate(dict.fromkeys(s.study for s in found.series), 1)}
    for series in found.series:
        is_taken = taken.get(series.study) is series
        yield _row(path, series, studies[series.study], taken=is_taken)
    for file, error in found.damaged:
        yield Row(str(file), left_out=error.cause.rstrip("."), taken=False)


def _row(path: Path, series: DicomSeries, study: int, *, taken: bool) -> Row:
    stack, first = series.stack, series.images[0]
    pixels = first.pixels
    return Row(
        path=str(path),
        series=series.uid,
        study=study,
        images=sum(max(len(image.frames), 1) for image in series.images),
        matrix=None if pixels is None else (pixels.rows, pixels.columns),
        step_mm=None if stack is None else stack.spacing_mm[2],
        extent_mm=None if stack is None else round(stack.extent_mm, 1),
        left_out=series.left_out,
        taken=taken,
        for_eyes=(
            "" if first.number is None else str(first.number), first.description, first.modality,
            first.kernel,
        ),
    )  # fmt: skip


def _print(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ctclip_client.cli.tables import print_table
    from ctclip_client.system.terminal import printable

    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    to_eyes = sys.stdout.isatty()
    table = Table()
    for title in ("", *(("Number", "Description", "Modality", "Kernel") if to_eyes else ())):
        table.add_column(title, overflow="fold")
    for title in ("Images", "Matrix", "Step\nmm", "Extent\nmm"):
        table.add_column(title, justify="right")
    table.add_column("Note", overflow="fold")
    for n, row in enumerate(rows, 1):
        numbers = (
            _shown(row.images), "×".join(map(str, row.matrix or ())), _shown(row.step_mm),
            _shown(row.extent_mm),
        )  # fmt: skip
        eyes = (row.for_eyes or ("", "", "", "")) if to_eyes else ()
        what = row.left_out or ("taken" if row.taken else "not the first choice")
        if row.taken and row.images is None:
            what = "a file, not looked into"
        mark = f"{n}*" if row.taken else str(n)
        cells = (mark, *eyes, *numbers, what)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    print_table(console, table)
    for n, row in enumerate(rows, 1):
        name = row.path if row.series is None else f"--series {row.series}"
        console.print(Text(printable(f"{n:3d}  {name}")), soft_wrap=True)
    if not to_eyes and any(row.for_eyes for row in rows):
        console.print(Text("Descriptions are for a terminal only: they may name the patient."))
    if len({row.study for row in rows if row.taken and row.study is not None}) > 1:
        console.print(Text(_STUDIES))


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
