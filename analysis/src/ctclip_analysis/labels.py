"""Labels from CSV files such as CT-RATE's and RAD-ChestCT's: which scan has which finding."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctclip_analysis.label_names import LOCATION, finding_of, plain
from ctclip_analysis.scan_names import Patients, patients_by_name
from ctclip_analysis.wording import counted
from ctclip_client.batch.lines import delimiter_of, lines_of
from ctclip_client.errors import InvalidInput, Unreadable

SCAN_COLUMNS = ("volumename", "noteacc deid", "path")
"""Columns that name the scan, as `plain` writes them; where there is none of them, the first."""
PATIENT_COLUMNS = ("patient", "patient id", "patientid", "mrn deid")
"""Likewise for the patient. The last one is in RAD-ChestCT's list of metadata."""

_VALUES = {
    "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0,
    "": np.nan, "nan": np.nan, "na": np.nan, "-1": np.nan, "-1.0": np.nan,
}  # fmt: skip
_REMEDY = (
    "Expected a CSV with a row a scan, its file name in the first column or in VolumeName, and a "
    "column a finding."
)
_CELLS = (
    "Each cell of a finding is 1 or 0; or empty, nan or -1 where nobody knows. Leave out columns "
    "of anything else."
)


@dataclass(frozen=True, eq=False)
class Labels:
    """One row a scan, as the file has them.

    scans: their names, N. findings: those that were asked for and have a column, F; or all. values:
    (N, F) float64: 1 present, 0 absent, NaN unknown. columns: finding -> the columns that it was
    read from. unused: columns that are none of the findings asked for. sha256: of the file.
    """

    path: Path
    sha256: str
    scans: tuple[str, ...]
    findings: tuple[str, ...]
    values: NDArray[np.float64]
    columns: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]
    patients: Patients

    def patients_of(self, rows: Sequence[int]) -> Patients:
        """The patients of some of the rows, and what tells these."""
        if not self.patients.by_column:
            return patients_by_name([self.scans[row] for row in rows])
        return replace(self.patients, ids=tuple(self.patients.ids[row] for row in rows))


def content_of(path: Path) -> bytes:
    """The file, whole: a pipe can be read only once. Raises: Unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"--labels: {path}: {error.strerror or error}.", _REMEDY) from error


def read_labels(
    path: Path, findings: Sequence[str] | None = None, *, content: bytes | None = None
) -> Labels:
    """Read a file of labels.

    Args:
        path: a CSV in UTF-8 with a header.
        findings: those to read, by their own names or by those of `label_names`. Without them each
            column is one by its own name, but for those of the scan and the patient.
        content: of `content_of`, where it has been read.

    Raises:
        Unreadable: no CSV, or rows of other lengths than the header.
        InvalidInput: two columns for one finding, two rows for one scan, a cell of a finding that
            is not 0, 1 or missing.
    """
    content = content_of(path) if content is None else content
    lines = lines_of(content, path)
    delimiter = delimiter_of(lines)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(rows, [])]
        if len(header) < 2:
            raise Unreadable(f"--labels: {path}: no table with a header.", _REMEDY)
        patient_column = _one_of(path, header, PATIENT_COLUMNS)
        scan_column = _one_of(path, header, SCAN_COLUMNS)
        if scan_column is None:
            scan_column = 0 if patient_column != 0 else 1
        others = [at for at in range(len(header)) if at not in (scan_column, patient_column)]
        wanted = _columns(path, [header[at] for at in others], others, findings)
        names: dict[str, int] = {}
        patients, values = [], []
        for number, row in enumerate(rows, 2):
            if not row:
                continue
            if len(row) != len(header):
                raise Unreadable(
                    f"--labels: {path}: row {number} has {counted(len(row), 'cell')}, the "
                    f"header has {len(header)}.",
                    _REMEDY,
                )
            _add(path, number, names, row[scan_column].strip())
            if patient_column is not None:
                patients.append(_patient(path, number, row[patient_column].strip()))
            values.append([_value(path, number, header, row, places) for places in wanted.values()])
    except csv.Error as error:
        raise Unreadable(f"--labels: {path}: not a CSV ({error}).", _REMEDY) from error
    if not names:
        raise InvalidInput(f"--labels: {path}: no row below the header.", _REMEDY)
    used = {at for places in wanted.values() for at in places}
    return Labels(
        path,
        sha256(content).hexdigest(),
        tuple(names),
        tuple(wanted),
        np.array(values, np.float64).reshape(len(names), len(wanted)),
        {finding: tuple(header[at] for at in places) for finding, places in wanted.items()},
        _grouped(header[at] for at in others if at not in used),
        patients_by_name(tuple(names))
        if patient_column is None
        else Patients(tuple(patients), f"column {header[patient_column]}", by_column=True),
    )


def _one_of(path: Path, header: Sequence[str], known: Sequence[str]) -> int | None:
    """The place of the first of the known columns."""
    places = [at for name in known for at, column in enumerate(header) if plain(column) == name]
    if len(places) > 1 and plain(header[places[0]]) == plain(header[places[1]]):
        raise _twice(path, header[places[0]], header[places[1]], header[places[0]])
    return places[0] if places else None


def _columns(
    path: Path, header: Sequence[str], places: Sequence[int], findings: Sequence[str] | None
) -> dict[str, list[int]]:
    """Finding -> the places of its columns, of which a finding has several where they are places
    of the body. A column of the finding's own name goes before one of another word for it."""
    own: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    other: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for column, at in zip(header, places, strict=True):
        abnormality, star, _ = column.partition(LOCATION)
        key = plain(abnormality)
        # A column without a place is one by itself: two of them are one too many.
        own[key][abnormality if star else f"{column} {at}"].append(at)
        other[plain(finding_of(abnormality))][abnormality if star else f"{column} {at}"].append(at)
    if findings is None:
        named = [column.partition(LOCATION)[0].strip() for column in header]
        findings = tuple({plain(name): name for name in reversed(named)}.values())[::-1]
    found: dict[str, list[int]] = {}
    for finding in findings:
        key = plain(finding)
        candidates = own.get(key) or other.get(plain(finding_of(finding))) or {}
        if len(candidates) > 1:
            first, second = [each[0] for each in candidates.values()][:2]
            by_place = dict(zip(places, header, strict=True))
            raise _twice(path, by_place[first], by_place[second], finding)
        if candidates:
            (found[finding],) = candidates.values()
    return found


def _value(
    path: Path, number: int, header: Sequence[str], row: Sequence[str], places: Sequence[int]
) -> float:
    """1 where any of the cells says so; unknown where one might."""
    values = []
    for at in places:
        value = _VALUES.get(row[at].strip().lower())
        if value is None:
            raise InvalidInput(
                f"--labels: {path}: row {number}, column '{header[at]}': got {row[at]!r}, expected "
                "0 or 1.",
                _CELLS,
            )
        values.append(value)
    return 1.0 if 1.0 in values else float(sum(values))


def _add(path: Path, number: int, names: dict[str, int], name: str) -> None:
    """Add a scan to names, each with the number of its row."""
    if not name:
        raise InvalidInput(f"--labels: {path}: row {number} names no scan.", _REMEDY)
    if names.setdefault(name, number) != number:
        raise InvalidInput(
            f"--labels: {path} has two rows for '{name}' ({names[name]} and {number}).",
            "Which of them is meant is unknown: leave one out.",
        )


def _patient(path: Path, number: int, name: str) -> str:
    if not name:
        raise InvalidInput(
            f"--labels: {path}: row {number} names no patient.",
            "Fill in the column, or leave it out.",
        )
    return name


def _grouped(columns: Iterable[str]) -> tuple[str, ...]:
    """Columns, those of one abnormality in many places once."""
    return tuple(dict.fromkeys(column.partition(LOCATION)[0] for column in columns))


def _twice(path: Path, first: str, second: str, finding: str) -> InvalidInput:
    return InvalidInput(
        f"--labels: {path}: the columns '{first}' and '{second}' are both '{finding}'.",
        "Leave one out, or name it otherwise.",
    )
