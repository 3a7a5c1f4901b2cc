"""The table that comes with CT-RATE: spacing, slope and intercept of each scan, by its file's name.

Nothing else of it is kept: its other columns hold what a DICOM header says of a patient.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ctclip_client.errors import InvalidInput
from ctclip_client.volume import checked_rescale, checked_spacing_mm

_NAME = "VolumeName"
_COLUMNS = ("RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing")
_FILE_NAME = re.compile(r"(train|valid)_\d+_[a-z]+_\d+\.nii(\.gz)?")
_REMEDY = "Take the metadata of CT-RATE as it is published (train_metadata.csv, "
_REMEDY += "validation_metadata.csv)."


@dataclass(frozen=True)
class Row:
    """What the table says of one scan.

    line: where, in the file. spacing_mm: (z, x, y). rescale: (slope, intercept), which upstream
    applies to what the file's own scaling has made of the stored values.
    """

    line: int
    spacing_mm: tuple[float, float, float]
    rescale: tuple[float, float]


@dataclass(frozen=True)
class Metadata:
    """The rows of one such table, which is read once for all scans.

    path: of the table. lines: file name, without .gz, to its line and the text of the columns
        slope, intercept, in-plane spacing and slice spacing.
    """

    path: Path
    lines: Mapping[str, tuple[int, tuple[str, ...]]]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a CSV file with a header line.

        Raises: InvalidInput: it cannot be read, lacks a column, or contradicts itself.
        """
        location = Path(path)
        lines: dict[str, tuple[int, tuple[str, ...]]] = {}
        try:
            with location.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                name, *columns = _positions(location, next(reader, []))
                for row in reader:
                    if len(row) <= max(name, *columns):
                        continue  # blank, or cut off: its scan has no row then
                    key = _key(row[name])
                    found = reader.line_num, tuple(row[column] for column in columns)
                    if lines.setdefault(key, found)[1] != found[1]:
                        raise InvalidInput(
                            f"{location}: lines {lines[key][0]} and {found[0]} say different "
                            f"things of {row[name]}.",
                            "Delete the wrong one.",
                        )
        except OSError as error:
            raise InvalidInput(
                f"{location}: {error.strerror or error}.",
                "Check the path and the permission to read it.",
            ) from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise InvalidInput(f"{location}: no CSV file in UTF-8 ({error}).", _REMEDY) from error
        return cls(location, lines)

    def row(self, scan: Path) -> Row:
        """The row of a scan, by its file's name.

        Raises: InvalidInput: there is none, or a number in it is none.
        """
        found = self.lines.get(_key(scan.name))
        if found is None:
            raise InvalidInput(
                f"{self.path}: no row for {scan.name} in the column {_NAME}.",
                "Give the metadata of this scan's own data set, and leave the names of the files "
                "as they are.",
            )
        line, values = found
        slope, intercept, in_plane, z = (
            self._numbers(line, column, text) for column, text in zip(_COLUMNS, values, strict=True)
        )
        try:
            spacing_mm = checked_spacing_mm((z[0], in_plane[0], in_plane[0]))
            rescale = checked_rescale((slope[0], intercept[0]))
        except InvalidInput as error:
            raise InvalidInput(f"{self.path}, line {line}: {error.cause}", _REMEDY) from error
        return Row(line, spacing_mm, rescale)

    def _numbers(self, line: int, column: str, text: str) -> Sequence[float]:
        """One number, or as many of the same as pixels have edges: "[0.68, 0.68]"."""
        expected = 2 if column == "XYSpacing" else 1
        try:
            read = json.loads(text)
            numbers = [float(number) for number in (read if isinstance(read, list) else [read])]
        except (ValueError, TypeError, RecursionError):
            numbers = []
        if len(numbers) not in (1, expected) or len(set(numbers)) != 1:
            raise InvalidInput(
                f"{self.path}, line {line}, column {column}: expected "
                + ("two equal numbers such as [0.68, 0.68]." if expected == 2 else "a number."),
                _REMEDY,
            )
        return numbers


def is_ct_rate_by_name(path: Path) -> bool:
    """Say whether a file is named like those of CT-RATE: valid_1_a_1.nii.gz."""
    return _FILE_NAME.fullmatch(path.name) is not None


def _positions(path: Path, header: Sequence[str]) -> list[int]:
    """Where the columns stand."""
    wanted = (_NAME, *_COLUMNS)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise InvalidInput(
            f"{path}: no column {', '.join(missing)}, expected {', '.join(wanted)}.", _REMEDY
        )
    return [header.index(name) for name in wanted]


def _key(name: str) -> str:
    return name.strip().removesuffix(".gz")
