"""Reports from files: which column is the text, which is the key, and what becomes of the text."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ctclip_client.batch.lines import read_lines, without_end
from ctclip_client.errors import InvalidInput, Unreadable

_REMEDY = (
    "Expected a CSV with Findings_EN and Impressions_EN (as CT-RATE's), or with a column 'text'; "
    "or a .txt with a text a line."
)
_SECTIONS = ("Findings_EN", "Impressions_EN")
_TEXT = "text"
_KEYS = ("VolumeName", "key")
_NOTHING = "Not given."
_STRIPPED = str.maketrans("", "", "\"'()")


@dataclass(frozen=True)
class Report:
    """key: the name of the volume, or the number of the text in its file, from 1."""

    key: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the text as it is sent."""
        return sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Reports:
    """taken: what of the file is the text and the key, in words."""

    path: Path
    reports: Sequence[Report]
    taken: str


def read_reports(path: Path) -> Reports:
    """Read texts.

    Of CT-RATE's reports, findings and impressions are joined without a separator, "Not given." is
    nothing, and quotes and parentheses are left out: upstream trained and evaluated on that. Other
    texts stay as they are.

    Raises: Unreadable; InvalidInput where a key has two texts.
    """
    lines = read_lines(path, _REMEDY)
    if path.suffix.lower() == ".txt":
        numbered = [Report(str(number), without_end(line)) for number, line in enumerate(lines, 1)]
        return _checked(path, numbered, "its lines, named by their numbers")
    return _of_table(path, lines)


def _of_table(path: Path, lines: Sequence[str]) -> Reports:
    try:
        header, *rows = csv.reader(lines, strict=True)
    except (csv.Error, ValueError) as error:
        raise Unreadable(f"{path}: no CSV with a header ({error}).", _REMEDY) from error
    sections = [name for name in _SECTIONS if name in header]
    columns = sections or [name for name in (_TEXT,) if name in header]
    if not columns:
        # Not their names: where there is no header, these are a patient's.
        raise InvalidInput(f"{path}: none of its {len(header)} columns is a report.", _REMEDY)
    for name in columns:
        if header.count(name) > 1:
            raise InvalidInput(f"{path}: column {name!r} is there twice, expected it once.")
    key = next((name for name in _KEYS if name in header), None)
    reports = []
    for number, row in enumerate((row for row in rows if row), 1):
        if len(row) != len(header):
            raise Unreadable(
                f"{path}: row {number} has {len(row)} cells, the header has {len(header)}.", _REMEDY
            )
        cells = [row[header.index(name)] for name in columns]
        if sections:
            cells = ["" if cell == _NOTHING else cell for cell in cells]
        text = "".join(cells)
        name = str(number) if key is None else row[header.index(key)]
        reports.append(Report(name, text.translate(_STRIPPED) if sections else text))
    by = "the number of the row" if key is None else f"column {key}"
    return _checked(path, reports, f"{' + '.join(columns)}, named by {by}")


def _checked(path: Path, reports: Sequence[Report], taken: str) -> Reports:
    """Each report once."""
    if not reports:
        raise InvalidInput(f"{path}: no text in it.", _REMEDY)
    known: dict[str, Report] = {}
    for number, report in enumerate(reports, 1):
        if known.setdefault(report.key, report).text != report.text:
            raise InvalidInput(
                f"{path}: row {number} has the key of an earlier one and another text.",
                "Give each text a key of its own.",
            )
    return Reports(path, tuple(known.values()), taken)
