"""`ctclip evaluate retrieval`: do embeddings find a report's volume, and volumes like a volume?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctclip_client.errors import EXIT_OK, InvalidInput
from ctclip_client.system.terminal import say

if TYPE_CHECKING:
    from ctclip_analysis.embeddings import Embeddings
    from ctclip_analysis.evaluate.retrieval import AtK, Similar
    from ctclip_analysis.labels import Labels
    from ctclip_analysis.scan_names import Patients

SUMMARY = "Judge search by embeddings: recall@k of reports to volumes, MAP@k of volumes to volumes."
_LEFT_OUT = {
    "texts_without_volume": "texts without a volume, left out",
    "volumes_without_text": "volumes without a text, ranked all the same",
    "volumes_without_labels": "volumes without labels of every finding, left out of MAP",
}
_VOLUMES_BY_NAME = (
    "Give ctclip embed text a CSV whose column VolumeName names the volumes' files, and neither "
    "command --hash-names."
)


@dataclass(frozen=True)
class _Result:
    """figures: of reports. similar: "as_upstream" and "other_patients", with labels only."""

    reports: int
    volumes: int
    figures: tuple[AtK, ...]
    similar: dict[str, Similar]
    left_out: dict[str, tuple[str, ...]]
    patients_told_by: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FILE", help="of ctclip embed image"
    )
    parser.add_argument(
        "--texts", type=Path, required=True, metavar="FILE",
        help="of ctclip embed text, with the volumes' names as keys (VolumeName)",
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=Path, metavar="CSV",
        help="findings of the volumes, as for ctclip evaluate; for volume-to-volume",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print an object, and no tables")


def run(args: argparse.Namespace) -> int:
    """Compute and print.

    Raises: InvalidInput.
    """
    from ctclip_analysis.embeddings import read_embeddings
    from ctclip_analysis.wording import first_of

    images = read_embeddings("--images", args.images, "image")
    texts = read_embeddings("--texts", args.texts, "text")
    _check_origins(images, texts)
    result = _computed(images, texts, args.labels)
    for what, names in result.left_out.items():
        if names:
            say(f"note: {_LEFT_OUT[what]}: {first_of(names)}")
    random = images.origin.random_weights or texts.origin.random_weights
    if random:
        say("RANDOM WEIGHTS: these embeddings are of a demo checkpoint; the figures mean nothing.")
    if args.json:
        print(json.dumps(_object(result, images, texts, random=random), allow_nan=False))
    else:
        _print(result, random=random)
    return EXIT_OK


def _check_origins(images: Embeddings, texts: Embeddings) -> None:
    if images.origin.checkpoint_sha256 != texts.origin.checkpoint_sha256:
        raise InvalidInput(
            f"--texts: {texts.path} is of checkpoint {texts.origin.checkpoint} (SHA-256 "
            f"{texts.origin.checkpoint_sha256[:16]}…), --images of {images.origin.checkpoint} "
            f"({images.origin.checkpoint_sha256[:16]}…): their vectors cannot be compared.",
            "Embed both by one release.",
        )
    if images.vectors.shape[1] != texts.vectors.shape[1]:
        raise InvalidInput(
            f"--texts: vectors of {texts.vectors.shape[1]} numbers, --images of "
            f"{images.vectors.shape[1]}.",
            "Embed both by one release.",
        )
    if images.origin.release != texts.origin.release:
        say(
            f"note: the scans were embedded by release {images.origin.release} "
            f"({images.origin.precision}), the texts by {texts.origin.release} "
            f"({texts.origin.precision}), of one checkpoint"
        )


def _computed(images: Embeddings, texts: Embeddings, labels_file: Path | None) -> _Result:
    import numpy as np

    from ctclip_analysis.evaluate.retrieval import as_upstream, other_patients, recall
    from ctclip_analysis.labels import read_labels
    from ctclip_analysis.scan_names import join_names, patients_by_name

    pairs = join_names(
        images.names, texts.names, images.path, f"--texts: {texts.path}", remedy=_VOLUMES_BY_NAME
    )
    left_out = {
        "texts_without_volume": pairs.rows_alone, "volumes_without_text": pairs.scans_alone
    }  # fmt: skip
    patients = patients_by_name(images.names)
    similar: dict[str, Similar] = {}
    if labels_file is not None:
        labels = read_labels(labels_file)
        rows = join_names(images.names, labels.scans, images.path, f"--labels: {labels_file}")
        row_of = dict(zip(rows.scans, rows.rows, strict=True))
        patients = _patients(patients, labels, row_of)
        used = _complete(labels, row_of)
        vectors = images.vectors[used]
        values = labels.values[[row_of[at] for at in used]]
        ids = [patients.ids[at] for at in used]
        similar = {
            "as_upstream": as_upstream(vectors, values),
            "other_patients": other_patients(vectors, values, ids),
        }
        known = set(used)
        left_out["volumes_without_labels"] = tuple(
            name for at, name in enumerate(images.names) if at not in known
        )
    figures = recall(
        texts.vectors[list(pairs.rows)], images.vectors, np.array(pairs.scans),
        [patients.ids[at] for at in pairs.scans],
    )  # fmt: skip
    return _Result(len(pairs.rows), len(images.names), figures, similar, left_out, patients.told_by)


def _patients(by_name: Patients, labels: Labels, row_of: Mapping[int, int]) -> Patients:
    """Whose the volumes are, as a column of the labels says it where they have a row."""
    from dataclasses import replace

    from ctclip_analysis.wording import counted

    told = labels.patients
    if not told.by_column:
        return by_name
    ids = tuple(
        told.ids[row_of[at]] if at in row_of else name for at, name in enumerate(by_name.ids)
    )
    without = len(ids) - len(row_of)
    more = f", and by names for {counted(without, 'volume')} without a row" if without else ""
    return replace(told, ids=ids, told_by=told.told_by + more)


def _complete(labels: Labels, row_of: Mapping[int, int]) -> list[int]:
    """The volumes of which every finding is known."""
    import numpy as np

    known = ~np.isnan(labels.values).any(axis=1)
    used = [at for at, row in row_of.items() if known[row]]
    if not used or not labels.findings:
        raise InvalidInput(
            f"--labels: {labels.path}: of none of the {len(row_of):,} volumes that it names is "
            "every finding known.",
            "Leave out columns that are mostly unknown.",
        )
    return used


def _object(
    result: _Result, images: Embeddings, texts: Embeddings, *, random: bool
) -> dict[str, Any]:
    return {
        "checkpoint": images.origin.checkpoint,
        "checkpoint_sha256": images.origin.checkpoint_sha256,
        "releases": {"images": images.origin.release, "texts": texts.origin.release},
        "random_weights": random,
        "patients_told_by": result.patients_told_by,
        "report_to_volume": {
            "reports": result.reports, "volumes": result.volumes,
            "recall": list(map(_figure, result.figures)),
        },
        "volume_to_volume": {
            name: {
                "queries": each.queries, "gallery": each.gallery,
                "map": list(map(_figure, each.figures)),
            }
            for name, each in result.similar.items()
        },
        "left_out": result.left_out,
    }  # fmt: skip


def _figure(at: AtK) -> dict[str, float | int | None]:
    import math

    told: dict[str, float | int | None] = {"k": at.k, "chance": at.chance}
    for name in ("value", "low", "high"):
        value = None if at.figure is None else getattr(at.figure, name)
        told[name] = None if value is None or math.isnan(value) else value
    return told


def _print(result: _Result, *, random: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from ctclip_analysis.wording import counted
    from ctclip_client.cli.tables import print_table

    titles = {
        "as_upstream": "Volume to volume, as CT-CLIP's script has it (with itself, k joined)",
        "other_patients": "Volume to volume, among other patients, each k by itself",
    }
    parts = [
        (f"Reports to volumes: {counted(result.reports, 'report')}, "
         f"{counted(result.volumes, 'volume')}", "recall", result.figures)
    ]  # fmt: skip
    for name, each in result.similar.items():
        counts = f"{each.queries:,} among {each.gallery:,}"
        parts.append((f"{titles[name]}: {counts}", "MAP", each.figures))
    console = Console()
    for title, word, figures in parts:
        print(title)
        table = Table(caption="RANDOM WEIGHTS: these numbers mean nothing." if random else None)
        for column in ("", "Value", "95 % interval", "By chance"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for at in figures:
            told = _figure(at)
            interval = "" if told["low"] is None else f"{told['low']:.3f} to {told['high']:.3f}"
            value = "too few volumes" if told["value"] is None else f"{told['value']:.3f}"
            chance = "" if told["chance"] is None else f"{told['chance']:.3f}"
            table.add_row(f"{word}@{at.k}", value, interval, chance)
        print_table(console, table)
    print(f"Intervals: 1,000 draws of patients, told by {result.patients_told_by}.")
