"""Tables made from the rows of a journal, each written whole: CSV, Parquet, and arrays as .npz."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctclip_client.errors import InvalidInput
from ctclip_client.system.distributions import how_to_install_extra
from ctclip_client.system.files import whole_file

if TYPE_CHECKING:
    from ctclip_client.batch.journal import Journal, Row

_READ_SO = (
    "orientation", "spacing_z_mm", "spacing_x_mm", "spacing_y_mm", "slope", "intercept", "hu_source"
)  # fmt: skip
_CARD = (
    "turned", "spacing_source", "hu_p5", "hu_p50", "hu_p95", "seen_z_from_mm", "seen_z_to_mm",
    "seen_x_from_mm", "seen_x_to_mm", "seen_y_from_mm", "seen_y_to_mm", "notes",
)  # fmt: skip
COLUMNS = (
    "path", "finding", "probability", "logit_present", "logit_absent", *_READ_SO,
    "release", "checkpoint", "precision", "random_weights", "series", "sha256", *_CARD,
)  # fmt: skip
"""Columns of `--csv` and `--parquet`: a row for each scan and finding, so that any prompts fit the
same table."""
EMBEDDED_SCANS = (
    "path", "series", "sha256", "release", "checkpoint", "checkpoint_sha256", "precision",
    "geometry", "random_weights", *_READ_SO, *_CARD,
)  # fmt: skip
"""What Parquet and .npz say of each scan besides its embedding."""
_NUMBERS = frozenset(
    ["probability", "logit_present", "logit_absent", "slope", "intercept", "hu_p5", "hu_p50",
     "hu_p95", *(name for name in (*_READ_SO, *_CARD) if name.endswith("_mm"))]
)  # fmt: skip
_CHUNK = 1024
_ROOM = "Make room on that disk; what was scored is kept, and the same command goes on."


def scores(row: Row) -> Iterator[tuple[Any, ...]]:
    """One scan's rows of the table, on `COLUMNS`."""
    provenance = row["provenance"]
    checkpoint = provenance["checkpoint"]
    scan = _flat(row) | {
        "release": provenance["release"], "checkpoint": checkpoint["name"],
        "precision": provenance["precision"], "random_weights": bool(checkpoint["random_weights"]),
    }  # fmt: skip
    for finding in row["findings"]:
        yield tuple((scan | finding)[name] for name in COLUMNS)


def _flat(row: Row) -> dict[str, Any]:
    """A row with what its recipe says in columns of their own; None where it says nothing."""
    recipe = row.get("recipe")
    if recipe is None:  # of a text
        return row
    percentiles, seen_mm = recipe["hu_percentiles"], recipe["seen_mm"]
    return row | {
        **{name: recipe[name] for name in ("orientation", "hu_source", "turned", "spacing_source")},
        **{f"spacing_{axis}_mm": mm for axis, mm in zip("zxy", recipe["spacing_mm"], strict=True)},
        **dict(zip(("slope", "intercept"), recipe["rescale"], strict=True)),
        **{f"hu_p{percent}": percentiles.get(str(percent)) for percent in (5, 50, 95)},
        **{f"seen_{axis}_{end}_mm": seen_mm.get(axis, (None, None))[n]
           for axis in "zxy" for n, end in enumerate(("from", "to"))},
        "notes": " ".join(recipe["notes"]),
        "geometry": row.get("geometry", ""),  # a run that an older ctclip began has none
    }  # fmt: skip


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Scores as CSV. Raises: InvalidInput where it cannot be written."""
    with whole_file(path, _ROOM) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            for cells in scores(row):
                # JSON's words for them, as everywhere else
                writer.writerow(
                    str(cell).lower() if isinstance(cell, bool) else cell for cell in cells
                )
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

    schema = pa.schema([(name, _parquet_type(name)) for name in COLUMNS])
    _write_parquet(path, schema, (dict(zip(COLUMNS, row, strict=True))
                                  for each in rows for row in scores(each)))  # fmt: skip


def write_embeddings_parquet(path: Path, journal: Journal, names: Sequence[str]) -> None:
    """Embeddings as Parquet: columns `names` of the rows, and `embedding`, a list of float32.

    Raises: InvalidInput where it cannot be written.
    """
    import pyarrow as pa

    fields = [(name, _parquet_type(name)) for name in names]
    schema = pa.schema([*fields, ("embedding", pa.list_(pa.float32()))])
    vectors = journal.vectors
    _write_parquet(path, schema, (
        {name: row[name] for name in names}
        | {"embedding": vectors.read([row["embedding_row"]], row["embedding_size"])[0]}
        for row in map(_flat, journal.rows())
    ))  # fmt: skip


def write_npz(path: Path, journal: Journal, names: Sequence[str]) -> None:
    """Embeddings as .npz: `embedding` (N, E) float32, and an array (N,) for each of `names`: of
    float64, NaN where nothing is known, of bool, or of text.

    Raises: InvalidInput where it cannot be written.
    """
    import numpy as np

    rows = [
        {name: row[name] for name in (*names, "embedding_row", "embedding_size")}
        for row in map(_flat, journal.rows())
    ]
    arrays = {}
    for name in names:
        missing = np.nan if name in _NUMBERS else ""
        cells = (_cell(row[name]) for row in rows)
        arrays[name] = np.array([missing if cell is None else cell for cell in cells])
    places = [row["embedding_row"] for row in rows]
    arrays["embedding"] = journal.vectors.read(places, rows[0]["embedding_size"])
    # As numpy.savez, whose archive would fail once more when it is freed, on a full disk.
    with whole_file(path, _ROOM) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.save(member, array, allow_pickle=False)


def _parquet_type(name: str) -> Any:
    import pyarrow as pa

    if name in _NUMBERS:
        return pa.float64()
    return pa.bool_() if name == "random_weights" else pa.string()


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
