"""Files of `ctclip embed`: vectors by name, and the one release that made them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctclip_analysis.wording import first_of
from ctclip_client.batch.journal import vectors_of
from ctclip_client.batch.lines import read_lines
from ctclip_client.errors import CTClipError, InvalidInput, Unreadable
from ctclip_client.system.distributions import how_to_install_extra
from ctclip_client.system.files import special

Kind = Literal["image", "text"]
Columns = Mapping[str, Sequence[Any]]

_ORIGIN = ("release", "checkpoint", "checkpoint_sha256", "precision", "random_weights")
_NAME: Mapping[Kind, str] = {"image": "path", "text": "key"}
_REMEDY = "Expected a file of ctclip embed: .npz, .parquet, or .jsonl with its .f32 beside it."
_AGAIN = (
    "Run the same ctclip embed command again: it asks for nothing that is done, and writes the "
    "file anew."
)
_LENGTH_TOLERANCE = 0.01
"""Embeddings have length 1; half precision leaves it within this."""


@dataclass(frozen=True)
class Origin:
    """What made embeddings. geometry: "" of texts, and where the file does not say."""

    release: str
    checkpoint: str
    checkpoint_sha256: str
    precision: str
    random_weights: bool
    geometry: str = ""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One row a scan or a report, in the order of the file.

    names: of a scan its path, of a report the name of its volume (or its number). vectors: (N, E)
    float32, each of length 1.
    """

    path: Path
    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    origin: Origin


def read_embeddings(option: str, path: Path, kind: Kind) -> Embeddings:
    """Read what `ctclip embed` has written. Nothing in it is executed.

    Args:
        option: that names the file, for errors.
        path: .npz, .parquet or .jsonl.
        kind: what it has to hold, scans or reports.

    Raises:
        Unreadable: it is none of these, or damaged.
        InvalidInput: the other kind, several releases, or one that the file does not tell.
    """
    readers = {".npz": _npz, ".parquet": _parquet, ".jsonl": _jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{option}: {path}: its name says no format.", _REMEDY)
    try:
        if what := special(path):
            raise Unreadable(f"{option}: {path}: {what}.", _REMEDY)
        columns, vectors = reader(path)
        found = "text" if "key" in columns else "image"
        if found != kind:
            raise InvalidInput(
                f"{option}: {path} holds embeddings of {found}s, expected {kind}s.",
                f"Name a file of ctclip embed {kind}.",
            )
        names = tuple(map(str, columns[_NAME[kind]]))
        checked = _vectors(vectors, len(names))
        return Embeddings(path, names, checked, _origin(option, path, columns))
    except CTClipError:
        raise
    except OSError as error:
        which = error.filename or path
        raise Unreadable(f"{option}: {which}: {error.strerror or error}.", _REMEDY) from error
    except Exception as error:  # a damaged archive or table may raise nearly anything
        raise Unreadable(
            f"{option}: {path}: no embeddings that can be read ({type(error).__name__}: {error}).",
            _REMEDY,
        ) from error


def _npz(path: Path) -> tuple[Columns, Any]:
    if not zipfile.is_zipfile(path):
        raise ValueError("no archive of NumPy")
    with np.load(path, allow_pickle=False) as arrays:
        wanted = {*_ORIGIN, *_NAME.values(), "geometry"} & set(arrays.files)
        return {name: arrays[name].tolist() for name in wanted}, arrays["embedding"]


def _parquet(path: Path) -> tuple[Columns, Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InvalidInput(
            f"{path}: Parquet is read by pyarrow, which cannot be loaded: {error}.",
            how_to_install_extra("parquet"),
        ) from error
    with pyarrow.parquet.ParquetFile(path) as file:
        wanted = [
            name
            for name in (*_ORIGIN, *_NAME.values(), "geometry", "embedding")
            if name in file.schema_arrow.names
        ]
        table = file.read(columns=wanted)
    vectors = np.stack([np.asarray(row, np.float32) for row in table["embedding"].to_numpy()])
    return {name: table[name].to_pylist() for name in wanted if name != "embedding"}, vectors


def _jsonl(path: Path) -> tuple[Columns, Any]:
    """The last row of each scan or report; one that failed has no vector."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in read_lines(path, _REMEDY):
        if not line.endswith("\n"):  # what a run that was ended had begun
            break
        row = json.loads(line)
        rows[row["path"], row.get("series"), row.get("key")] = row
    done = [row for row in rows.values() if "error" not in row]
    sizes = {row["embedding_size"] for row in done}
    if len(sizes) != 1:
        raise ValueError(f"{len(sizes)} sizes of embeddings")
    places = [row["embedding_row"] for row in done]
    if min(places) < 0:
        raise ValueError(f"embedding_row: got {min(places)}")
    vectors = np.memmap(vectors_of(path), "<f4", "r")
    (size,) = sizes
    known = [name for name in (*_ORIGIN, *_NAME.values(), "geometry") if name in done[0]]
    columns = {name: [row.get(name, "") for row in done] for name in known}
    return columns, vectors[: len(vectors) // size * size].reshape(-1, size)[places]


def _vectors(vectors: Any, count: int) -> NDArray[np.float32]:
    array = np.asarray(vectors)
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[0] != count or not array.size:
        raise ValueError(f"embedding: {array.dtype} {list(array.shape)} for {count} names")
    lengths = np.linalg.norm(array.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))  # NaN is wrong, too
    if wrong.size:
        raise ValueError(f"embedding: row {wrong[0]} has length {lengths[wrong[0]]:g}, expected 1")
    return np.asarray(array / lengths[:, None], np.float32)


def _origin(option: str, path: Path, columns: Columns) -> Origin:
    releases = sorted(set(map(str, columns["release"])))
    if len(releases) > 1:
        raise InvalidInput(
            f"{option}: {path} holds embeddings of {len(releases)} releases "
            f"({first_of(releases)}), expected one.",
            "Embed all by one release: ctclip embed … --again.",
        )
    digests = set(map(str, columns.get("checkpoint_sha256", ())))
    if len(digests) != 1 or "" in digests:
        raise InvalidInput(
            f"{option}: {path} does not say by which checkpoint it was made: an older ctclip wrote "
            "it.",
            _AGAIN,
        )
    seen = set(map(str, columns.get("geometry", ()))) - {"", "None"}
    return Origin(
        releases[0],
        str(columns["checkpoint"][0]),
        digests.pop(),
        str(columns["precision"][0]),
        any(columns["random_weights"]),
        seen.pop() if len(seen) == 1 else "",
    )
