"""The graphs of a release: their files, real inputs, and who judges what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_bench.graphs.judging import (
    VALUE_BOUNDS,
    Judge,
    judge_text,
    judge_values,
    judge_vision,
)
from ctclip_bench.graphs.runners import Feed
from ctclip_bench.graphs.subject import Subject
from ctclip_client import Volume
from ctclip_client.contract import (
    CLASSFINE,
    FINDINGS,
    PREPROCESS,
    RELEVANCE,
    SCORE,
    TEXT_ENCODER,
    VISION,
    Model,
)
from ctclip_export.model.preprocess import preprocess
from ctclip_export.precision.choices import precision_of

GRAPHS: dict[str, Model] = {
    "vision": VISION, "text": TEXT_ENCODER, "preprocess": PREPROCESS, "score": SCORE,
    "findings": FINDINGS, "relevance": RELEVANCE, "classfine": CLASSFINE,
}  # fmt: skip
"""Word of --graphs, and name of the table -> its model."""
ENCODERS = ("vision", "text")


@dataclass(frozen=True)
class Case:
    """One graph. files: the forms of it in the version folder, `model.onnx` first. feeds: inputs
    by name, for each volume; the first is timed.
    """

    word: str
    model: Model
    precision: str
    files: tuple[Path, ...]
    feeds: tuple[Feed, ...]
    judge: Judge

    @property
    def batch(self) -> int:
        """Volumes, or texts, of one run."""
        return len(next(iter(self.feeds[0].values()))) if self.word == "text" else 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs that are timed."""
        return {name: array.shape for name, array in self.feeds[0].items()}

    @property
    def decisive(self) -> Feed:
        """Those of them on which shapes inside of the graph depend."""
        return {name: array for name, array in self.feeds[0].items() if name == "SPACING"}


def case_of(subject: Subject, word: str) -> Case:
    """word: of GRAPHS; "classfine" only where the release has it."""
    inputs = subject.inputs
    model = GRAPHS[word]
    path = inputs.file(model.name)
    others = sorted(path.parent.glob("model_*.onnx"))
    feeds = _feeds(subject, word)
    if word == "vision":
        judge = judge_vision(subject)
    elif word == "text":
        judge = judge_text(subject)
    else:
        constants = (
            "the checkpoint"
            if subject.model and subject.served is subject.heads
            else "the graph's own constants"
        )
        against = "PyTorch float64" if word == "preprocess" else f"NumPy float32, by {constants}"
        judge = judge_values(_expected(subject, word), against, VALUE_BOUNDS[word])
    return Case(
        word, model, precision_of(model, inputs.release.precision), (path, *others), feeds, judge,
    )  # fmt: skip


def _feeds(subject: Subject, word: str) -> tuple[Feed, ...]:
    if word == "text":
        some = slice(0, TEXT_ENCODER.max_batch_size)
        return ({"INPUT_IDS": subject.ids[some], "ATTENTION_MASK": subject.mask[some]},)
    found: list[Feed] = []
    for number, answer in enumerate(subject.answers):
        image = {"IMAGE_EMBEDDING": answer.image_embedding[None]}
        if word == "vision":
            found.append({"VOXELS": subject.voxels[number]})
        elif word == "preprocess":
            found.append(subject.volumes[number].tensors())
        elif word == "score":
            found.append({**image, "TEXT_EMBEDDING": subject.served.bank})
        elif word == "relevance":
            if answer.codes is None:
                raise ValueError("the reference shows no codes")
            found.append({"CODES": answer.codes[None], "IMAGE_NORM": subject.norms[number]})
        else:
            found.append(image)
    return tuple(found)


def _expected(subject: Subject, word: str) -> list[Mapping[str, Any]]:
    """What a graph behind or before the encoders has to answer, by PyTorch or NumPy."""
    heads = subject.served
    found: list[Mapping[str, Any]] = []
    feeds = _feeds(subject, word)
    for feed, prepared, volume in zip(feeds, subject.voxels, subject.volumes, strict=True):
        if word == "preprocess":
            found.append({"VOXELS": prepared if subject.model else _by_reference(subject, volume)})
        elif word == "relevance":
            found.append(heads.relevance(feed["CODES"], feed["IMAGE_NORM"]))
        elif word == "classfine":
            found.append(heads.classes(feed["IMAGE_EMBEDDING"]))
        else:
            found.append(heads.scores(feed["IMAGE_EMBEDDING"]))
    return found


def _by_reference(subject: Subject, volume: Volume) -> NDArray[np.float32]:
    """Where there is no checkpoint, the subject's voxels are the graph's own."""
    of_volume = volume.voxels, volume.spacing_mm, volume.rescale
    return preprocess(*of_volume, subject.inputs.release.geometry).numpy()
