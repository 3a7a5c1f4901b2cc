"""Predictions from files: what `ctclip predict` writes, and tables of other programs."""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_analysis.wording import counted
from ctclip_client.batch.lines import delimiter_of, lines_of
from ctclip_client.errors import InvalidInput, Unreadable

_REMEDY = (
    "Expected what ctclip predict writes (--csv, --parquet, --jsonl), or a CSV with a scan's name "
    "in the first column and a column of probabilities for each finding."
)
_LONG = {"path", "finding", "probability"}
_TEXTS = ("path", "finding", "series", "release", "checkpoint", "precision")
_AGAIN = "Leave one out; nobody can say which of them is meant."
_PARQUET = b"PAR1"


@dataclass(frozen=True)
class Origin:
    """Whose answers they are; each None where the file does not say."""

    release: str | None = None
    checkpoint: str | None = None
    precision: str | None = None
    random_weights: bool | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """scans: their paths, N. probabilities: (N, F) float64 in [0, 1], on `findings`.

    failed: path and kind of error of scans without a result. replaced: how many rows of a journal a
    later row of the same scan has taken the place of. sha256: of the file.
    """

    path: Path
    sha256: str
    scans: tuple[str, ...]
    findings: tuple[str, ...]
    probabilities: NDArray[np.float64]
    origin: Origin
    failed: tuple[tuple[str, str], ...] = ()
    replaced: int = 0


def read_predictions(path: Path, option: str = "--predictions") -> Predictions:
    """Read a file of predictions, of whichever form.

    Raises:
        Unreadable: a file that is none of these.
        InvalidInput: a value that is no probability, a scan that lacks a finding or has one twice,
            rows of several releases, or no row with a result.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{option}: {path}: {error.strerror or error}.", _REMEDY) from error
    table = _Table(option, path)
    if content.startswith(_PARQUET):
        table.add_long(_parquet_rows(table.where, content))
    elif content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        table.add_journal(_json_rows(table.where, content))
    else:
        _read_csv(table, content)
    return table.finish(sha256(content).hexdigest())


class _Table:
    """Rows of a file as they come; says what is wrong with them by number."""

    def __init__(self, option: str, path: Path) -> None:
        self.where = f"{option}: {path}"
        self.path = path
        self.scores: dict[tuple[str, str | None], dict[str, float]] = {}
        self.origins: dict[Origin, int] = {}
        self.failed: dict[tuple[str, str | None], str] = {}
        self.replaced = 0

    def add_long(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """A row a scan and finding."""
        for number, row in rows:
            for column in _TEXTS:  # a table of Parquet may hold anything
                cell = row.get(column)
                if not isinstance(cell, str) and (cell is not None or column in _LONG):
                    raise Unreadable(
                        f"{self.where}: row {number}: '{column}' is no text, got {cell!r:.40}.",
                        _REMEDY,
                    )
            key = (row["path"], row.get("series") or None)
            scores = self.scores.setdefault(key, {})
            finding = row["finding"]
            if finding in scores:
                raise InvalidInput(
                    f"{self.where}: row {number}: '{key[0]}' has '{finding}' twice.", _AGAIN
                )
            scores[finding] = self._probability(number, finding, row["probability"])
            origin = Origin(
                row.get("release") or None, row.get("checkpoint") or None,
                row.get("precision") or None, _flag(row.get("random_weights")),
            )  # fmt: skip
            self.origins.setdefault(origin, number)

    def add_journal(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """A row a scan. Of a journal, the last one of a scan is its result."""
        for number, row in rows:
            try:
                key, error = (str(row["path"]), row.get("series")), row.get("error")
                if key in self.scores or key in self.failed:
                    if "asked" not in row:
                        raise InvalidInput(
                            f"{self.where}: line {number}: '{key[0]}' is there twice.", _AGAIN
                        )
                    self.replaced += 1
                    self.scores.pop(key, None)
                    self.failed.pop(key, None)
                if error is not None:
                    self.failed[key] = str(error["kind"])
                    continue
                self.scores[key] = {
                    str(each["finding"]): self._probability(
                        number, str(each["finding"]), each["probability"]
                    )
                    for each in row["findings"]
                }
                if len(self.scores[key]) != len(row["findings"]):
                    raise InvalidInput(
                        f"{self.where}: line {number}: '{key[0]}' has a finding twice.", _AGAIN
                    )
                provenance = row["provenance"]
                checkpoint = provenance["checkpoint"]
                origin = Origin(
                    provenance["release"], checkpoint["name"], provenance["precision"],
                    bool(checkpoint["random_weights"]),
                )  # fmt: skip
                self.origins.setdefault(origin, number)
            except (KeyError, TypeError) as error:
                raise Unreadable(
                    f"{self.where}: line {number} is no row of ctclip predict ({error!r}).", _REMEDY
                ) from error

    def add_wide(self, header: Sequence[str], rows: Iterable[tuple[int, list[str]]]) -> None:
        """A row a scan, a column a finding."""
        for number, row in rows:
            key = (row[0].strip(), None)
            if not key[0] or key in self.scores:
                what = f"'{key[0]}' is there twice" if key[0] else "the scan has no name"
                raise InvalidInput(f"{self.where}: row {number}: {what}.", _AGAIN)
            self.scores[key] = {
                finding: self._probability(number, finding, cell)
                for finding, cell in zip(header[1:], row[1:], strict=True)
            }

    def finish(self, digest: str) -> Predictions:
        """Raises: InvalidInput where rows do not fit together."""
        if not self.scores:
            failed = f" ({len(self.failed)} failed)" if self.failed else ""
            raise InvalidInput(f"{self.where}: no scan with a result{failed}.", _REMEDY)
        findings = tuple(next(iter(self.scores.values())))
        if not findings:
            raise InvalidInput(f"{self.where}: the first scan has no finding.", _REMEDY)
        for (scan, _), scores in self.scores.items():
            if scores.keys() != set(findings):
                lacks = sorted(set(findings) ^ scores.keys())
                raise InvalidInput(
                    f"{self.where}: '{scan}' and the first scan have different findings: "
                    f"'{lacks[0]}' is there for one of them alone.",
                    "Predict all scans with the same findings or prompts.",
                )
        if len(self.origins) > 1:
            (one, _), (other, number) = list(self.origins.items())[:2]
            raise InvalidInput(
                f"{self.where}: row {number} is of another release ({other.release}, "
                f"{other.precision}) than those before it ({one.release}, {one.precision}).",
                "Evaluate the answers of one release at a time.",
            )
        return Predictions(
            self.path, digest, tuple(scan for scan, _ in self.scores), findings,
            np.array([[scores[name] for name in findings] for scores in self.scores.values()]),
            next(iter(self.origins), Origin()),
            tuple((scan, kind) for (scan, _), kind in self.failed.items()), self.replaced,
        )  # fmt: skip

    def _probability(self, number: int, finding: str, cell: object) -> float:
        try:
            value = float(cell)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            value = float("nan")
        if isinstance(cell, bool) or not 0 <= value <= 1:  # false for NaN, too
            raise InvalidInput(
                f"{self.where}: row {number}, '{finding}': got {cell!r:.40}, expected a "
                "probability from 0 to 1.",
                "Logits and percentages are none, and decimals have a point. Where each finding "
                "has a column, the first column is the scan's name, and there are no others.",
            )
        return value


def _flag(value: object) -> bool | None:
    if value is None or value == "":
        return None
    return value is True or str(value).lower() == "true"


def _read_csv(table: _Table, content: bytes) -> None:
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise Unreadable(f"{table.where}: no UTF-8, but UTF-16.", "Write it as UTF-8.")
    lines = lines_of(content, table.path, errors="surrogateescape")
    delimiter = delimiter_of(lines)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(rows, [])]
        if len(header) < 2 or any("\0" in cell for cell in header):
            raise Unreadable(f"{table.where}: no table of predictions.", _REMEDY)
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise InvalidInput(f"{table.where} has the column '{twice}' twice.", _AGAIN)
        checked = _checked(table, header, rows)
        if set(header) >= _LONG:
            table.add_long((n, dict(zip(header, row, strict=True))) for n, row in checked)
        else:
            table.add_wide(header, checked)
    except csv.Error as error:
        raise Unreadable(f"{table.where}: not a CSV ({error}).", _REMEDY) from error


def _checked(
    table: _Table, header: Sequence[str], rows: Iterable[list[str]]
) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(rows, 2):
        if row and len(row) != len(header):
            raise Unreadable(
                f"{table.where}: row {number} has {counted(len(row), 'cell')}, the header has "
                f"{len(header)}.",
                _REMEDY,
            )
        if row:
            yield number, row


def _json_rows(where: str, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Unreadable(
                f"{where}: line {number} is no JSON ({error}).",
                f"{_REMEDY} A run that was ended leaves whole lines once it goes on.",
            ) from error
        if not isinstance(row, dict):
            raise Unreadable(f"{where}: line {number} is no JSON object.", _REMEDY)
        yield number, row


def _parquet_rows(where: str, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    from ctclip_client.batch.tables import require_pyarrow

    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise Unreadable(f"{where}: not Parquet ({said}).", _REMEDY) from error
    if not set(table.column_names) >= _LONG:
        raise Unreadable(f"{where}: no table of predictions.", _REMEDY)
    wanted = [*_LONG, "series", "release", "checkpoint", "precision", "random_weights"]
    kept = table.select([name for name in wanted if name in table.column_names])
    yield from enumerate(kept.to_pylist(), 1)
