"""Files as `ctclip embed` writes them, from drawn vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORIGIN: dict[str, Any] = {
    "release": "r1", "checkpoint": "ctclip.pt", "checkpoint_sha256": "ab" * 32,
    "precision": "fp32", "random_weights": False,
}  # fmt: skip


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def write_npz(
    path: Path, names: Sequence[str], vectors: NDArray[Any], *, texts: bool = False, **changes: Any
) -> Path:
    """Scans (or texts) by name; `changes` are of what the file says of their origin."""
    columns: dict[str, Any] = {name: [value] * len(names) for name, value in ORIGIN.items()}
    columns["path"] = ["reports.csv"] * len(names) if texts else list(names)
    if texts:
        columns["key"] = list(names)
    else:
        columns["geometry"] = ["240x480x480 at 1.5,0.75,0.75 mm"] * len(names)
    for name, value in changes.items():
        if value is None:
            del columns[name]
        else:
            columns[name] = value if isinstance(value, list) else [value] * len(names)
    arrays = {name: np.array(cells) for name, cells in columns.items()}
    np.savez(path, embedding=unit(vectors), **arrays)
    return path
