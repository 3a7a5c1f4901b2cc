"""Where `ctclip embed` puts its vectors: the suffix of --out decides."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.errors import InvalidInput

if TYPE_CHECKING:
    from ctclip_client.batch.journal import Journal


@dataclass(frozen=True)
class EmbeddingOutputs:
    """journal: the file itself, where it is the journal. writers: make it from one otherwise."""

    journal: Path | None
    writers: Sequence[Callable[[Journal], None]]


def add_out_option(parser: argparse.ArgumentParser) -> None:
    """Add --out."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="FILE.jsonl: a row each, appended as they come, and FILE.jsonl.f32, their vectors as "
        "float32, one after another; FILE.parquet (needs pyarrow) or FILE.npz, written at the end. "
        "The same command goes on where a run was ended, by whatever",
    )  # fmt: skip


def embedding_outputs(out: Path, columns: Sequence[str]) -> EmbeddingOutputs:
    """columns: fields of rows that go into Parquet and .npz.

    Raises: InvalidInput for another suffix, or where pyarrow is missing.
    """
    from ctclip_client.batch.tables import require_pyarrow, write_embeddings_parquet, write_npz

    suffix = out.suffix.lower()
    if suffix == ".jsonl":
        return EmbeddingOutputs(out, ())
    if suffix == ".npz":
        return EmbeddingOutputs(None, (lambda journal: write_npz(out, journal, columns),))
    if suffix == ".parquet":
        require_pyarrow()
        return EmbeddingOutputs(
            None, (lambda journal: write_embeddings_parquet(out, journal, columns),)
        )
    raise InvalidInput(
        f"--out: {out}: its name says no format.", "Let it end in .jsonl, .parquet or .npz."
    )
