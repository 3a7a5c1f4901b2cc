"""The file of a linear head on image embeddings, between `ctclip fit-head` and `ctclip export`.

JSON, which runs nothing while it is read and which a person can look into.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ctclip_client.release.json_records import damaged, read_record

KIND, VERSION = "ctclip-head", 1
_REMEDY = "Name a file that ctclip fit-head has written."
_MOST_CLASSES, _LONGEST_NAME = 10_000, 200
CLASS_NAME = f"a name of 1 to {_LONGEST_NAME} printable characters, no blank at either end"
_LONGEST_TEXT = 255
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class TrainedOn:
    """Whose embeddings a head was trained on, as PROVENANCE said it of each scan.

    geometry: what the vision model saw, "240x480x480 at 1.5,0.75,0.75 mm"; "" where the embeddings
    did not say. scans: how many had a row of labels.
    """

    release: str
    checkpoint: str
    checkpoint_sha256: str
    precision: str
    random_weights: bool
    geometry: str = ""
    scans: int = 0


@dataclass(frozen=True)
class LinearHead:
    """probability = sigmoid(weight · (embedding − mean) + bias), of each class on its own.

    weight: (C, E), bias: (C,), mean: (E,); of the embedding as it is, of length 1. The mean could
    be a part of the bias, but embeddings differ little from it: float32 would lose their digits.
    cross_validation: how good it is on scans that it was not fitted to, and how that was found out.
    """

    kind: str
    version: int
    classes: tuple[str, ...]
    embedding_size: int
    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    mean: tuple[float, ...]
    trained_on: TrainedOn
    cross_validation: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """weight (C, E), bias (C,) and mean (E,), as they are served."""
        weight, bias, mean = (
            np.array(each, np.float32) for each in (self.weight, self.bias, self.mean)
        )
        return weight, bias, mean

    def write(self, file: BinaryIO) -> None:
        """Write the JSON; the same content gives the same bytes."""
        file.write(json.dumps(asdict(self), allow_nan=False, indent=1).encode() + b"\n")


def is_class_name(name: str) -> bool:
    """Whether answers, tables and pages can show it as it is."""
    return name == name.strip() and name.isprintable() and 1 <= len(name) <= _LONGEST_NAME


def read_linear_head(path: Path) -> LinearHead:
    """Read a head.

    Raises: Unreadable, naming the field, got and expected.
    """
    head = read_record(LinearHead, path, _REMEDY)
    for problem in _problems(head):
        raise damaged(path, problem, _REMEDY)
    return head


def problems_of_origin(trained_on: TrainedOn) -> Iterator[str]:
    """What of it every answer of the head could not carry: PROVENANCE has all of it."""
    for name in ("release", "checkpoint", "precision", "geometry"):
        text = getattr(trained_on, name)
        least = 0 if name == "geometry" else 1
        if not least <= len(text) <= _LONGEST_TEXT or not text.isprintable():
            yield (
                f"{name}: got {text!r:.60}, expected a text of {least} to {_LONGEST_TEXT} "
                "printable characters"
            )
    if not re.fullmatch("[0-9a-f]{64}", trained_on.checkpoint_sha256):
        got = trained_on.checkpoint_sha256
        yield f"checkpoint_sha256: got {got!r:.60}, expected the 64 digits of a SHA-256"


def _problems(head: LinearHead) -> Iterator[str]:
    """What makes no sense in it."""
    if (head.kind, head.version) != (KIND, VERSION):
        yield f"kind: got {head.kind!r}, version {head.version}, expected {KIND!r}, {VERSION}"
    count = len(head.classes)
    if not 1 <= count <= _MOST_CLASSES:
        yield f"classes: got {count}, expected 1 to {_MOST_CLASSES:,}"
    for name in head.classes:
        if not is_class_name(name):
            yield f"classes: got {name!r:.60}, expected {CLASS_NAME}"
    if len(set(head.classes)) < count:
        yield "classes: a name is there twice, expected each once"
    if not head.embedding_size:
        yield "embedding_size: got 0, expected the embedding's"
    if len(head.weight) != count or len(head.bias) != count:
        yield (
            f"weight, bias: got {len(head.weight)} and {len(head.bias)} rows, expected {count}, "
            "one for each class"
        )
    named = [(f"weight[{index}]", row) for index, row in enumerate(head.weight)]
    for name, row in (*named, ("mean", head.mean)):
        if len(row) != head.embedding_size:
            yield f"{name}: got {len(row)} numbers, expected {head.embedding_size}"
    yield from (f"trained_on.{problem}" for problem in problems_of_origin(head.trained_on))
    rows = (*head.weight, head.bias, head.mean)
    if any(abs(value) > _LARGEST for row in rows for value in row):
        yield "weight, bias, mean: a number is too large for float32"
