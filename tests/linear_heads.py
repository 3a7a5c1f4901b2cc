"""Linear heads as `ctclip fit-head` writes them, drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ctclip_client.release.digest import sha256
from ctclip_client.release.linear_head import KIND, VERSION, LinearHead, TrainedOn

CLASSES = ("Nodule > 6 mm", "Emphysem, mäßig", "Metal")
GEOMETRY = "40x60x100 at 1.5,0.75,0.75 mm"


def drawn_head(checkpoint: Path, embedding_size: int = 32, **changes: Any) -> LinearHead:
    """Of the golden checkpoint's embeddings, unless `changes` says otherwise."""
    draw = np.random.default_rng(7)
    weight = draw.normal(0, 3, (len(CLASSES), embedding_size))
    trained_on = TrainedOn("r1", checkpoint.name, sha256(checkpoint), "fp32", False, GEOMETRY, 9)
    head = LinearHead(
        KIND, VERSION, CLASSES, embedding_size, tuple(map(tuple, weight.tolist())),
        tuple(draw.normal(size=len(CLASSES)).tolist()),
        tuple(draw.normal(0, 0.1, embedding_size).tolist()), trained_on,
    )  # fmt: skip
    return replace(head, **changes)


def write_head(path: Path, head: LinearHead) -> Path:
    """Write it, and give back where."""
    with path.open("wb") as file:
        head.write(file)
    return path
