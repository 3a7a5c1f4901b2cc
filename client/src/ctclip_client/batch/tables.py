"""Tables made from the rows of a journal, each written whole: CSV, Parquet, and arrays as .npz."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctclip_client.errors import InvalidInput
from ctclip_client.system.distributions import how_to_install_extra
from ctclip_client.system.files import whole_file

if TYPE_CHECKING:
    from ctclip_client.batch.journal import Journal, Row

COLUMNS = (
    "path", "finding", "probability", "logit_present", "logit_absent",
    "orientation", "spacing_z_mm", "spacing_x_mm", "spacing_y_mm", "slope", "intercept",
    "hu_source", "release", "checkpoint", "precision", "random_weights", "series",
)  # fmt: skip
"""Columns of `--csv` and `--parquet`: a row for each scan and finding, so that any prompts fit the
same table."""
_NUMBERS = frozenset(COLUMNS[2:5] + COLUMNS[6:11])
_CHUNK = 1024
_ROOM = "Make room on that disk; what was scored is kept, and the same command goes on."


def scores(row: Row) -> Iterator[tuple[Any, ...]]:
    """One scan's rows of the table, on `COLUMNS`."""
    recipe, provenance = row["recipe"], row["provenance"]
    checkpoint = provenance["checkpoint"]
    for finding in row["findings"]:
        yield (
            row["path"], finding["finding"], finding["probability"], finding["logit_present"],
            finding["logit_absent"],
            recipe["orientation"], *recipe["spacing_mm"], *recipe["rescale"], recipe["hu_source"],
            provenance["release"], checkpoint["name"], provenance["precision"],
            bool(checkpoint["random_weights"]), row["series"],
        )  # fmt: skip


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Scores as CSV. Raises: InvalidInput where it cannot be written."""
    with whole_file(path, _ROOM) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            for *cells, random, series in scores(row):
                writer.writerow((*cells, str(random).lower(), series))
        text.detach()


def require_pyarrow() -> None:
    """Raises: InvalidInput where it is not installed; before thousands of scans are scored."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InvalidInput(
            f"Parquet is written by pyarrow, which cannot be loaded: {error}.",
            how_to_install_extra("parquet"),
        ) from error


def write_scores_parquet(path: Path, rows: Iterable[Row]) -> None:
    """Scores as Parquet. Raises: InvalidInput where it cannot be written."""
    import pyarrow as pa

    kinds = {"random_weights": pa.bool_()} | dict.fromkeys(_NUMBERS, pa.float64())
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    _write_parquet(path, schema, (dict(zip(COLUMNS, row, strict=True))
                                  for each in rows for row in scores(each)))  # fmt: skip


def write_embeddings_parquet(path: Path, journal: Journal, names: Sequence[str]) -> None:
    """Embeddings as Parquet: columns `names` of the rows, and `embedding`, a list of float32.

    Raises: InvalidInput where it cannot be written.
    """
    import pyarrow as pa

    fields = [(name, pa.bool_() if name == "random_weights" else pa.string()) for name in names]
    schema = pa.schema([*fields, ("embedding", pa.list_(pa.float32()))])
    vectors = journal.vectors
    _write_parquet(path, schema, (
        {name: row[name] for name in names}
        | {"embedding": vectors.read([row["embedding_row"]], row["embedding_size"])[0]}
        for row in journal.rows()
    ))  # fmt: skip


def write_npz(path: Path, journal: Journal, names: Sequence[str]) -> None:
    """Embeddings as .npz: `embedding` (N, E) float32, and an array (N,) for each of `names`.

    Raises: InvalidInput where it cannot be written.
    """
    import numpy as np

    rows = [
        {name: row[name] for name in (*names, "embedding_row", "embedding_size")}
        for row in journal.rows()
    ]
    arrays = {
        name: np.array([_cell(row[name]) if row[name] is not None else "" for row in rows])
        for name in names
    }
    places = [row["embedding_row"] for row in rows]
    arrays["embedding"] = journal.vectors.read(places, rows[0]["embedding_size"])
    with whole_file(path, _ROOM) as file:
        np.savez(file, **arrays)


def _write_parquet(path: Path, schema: Any, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    with whole_file(path, _ROOM) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        chunk: list[dict[str, Any]] = []
        for row in rows:
            chunk.append({name: _cell(value) for name, value in row.items()})
            if len(chunk) == _CHUNK:
                writer.write_table(pa.Table.from_pylist(chunk, schema))
                chunk = []
        if chunk:
            writer.write_table(pa.Table.from_pylist(chunk, schema))


def _cell(value: Any) -> Any:
    """Names of files that are no text, as text."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value
