"""The graphs of a release: files, real inputs, and the verdict on what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_bench.graphs.runners import Feed, Outputs, Tokens, Voxels
from ctclip_bench.graphs.subject import Subject
from ctclip_bench.graphs.torch_runner import TorchRunner
from ctclip_bench.parity.run import FLOAT32_ERROR
from ctclip_bench.results.result import Parity
from ctclip_client.contract import CLASSFINE_MODELS, MODELS, TEXT_ENCODER, Model
from ctclip_export.parity.check_fp32 import (
    LOGIT_BOUND,
    PROBABILITY_BOUND,
    RELEVANCE_BOUND,
    VOXELS_BOUND,
)
from ctclip_export.parity.compare import ParityError, compare
from ctclip_export.parity.judge import Bounds, StepAnswer, StepVerdict, bounds_for, judge
from ctclip_export.precision.choices import precision_of

ENCODERS = ("vision", "text")
_BOUNDS = {
    "VOXELS": VOXELS_BOUND, "LOGITS": LOGIT_BOUND, "PROBABILITIES": PROBABILITY_BOUND,
    "RELEVANCE": RELEVANCE_BOUND,
}  # fmt: skip
"""Of graphs that are float32 in every release, by output: those that an export is held to."""
ShowTokens = Callable[[Voxels], Tokens]
"""Of volumes, by a runtime that hides its tokens where it is timed; it costs a run of each."""


@dataclass(frozen=True)
class Case:
    """One graph. files: the forms of it in the version folder, `model.onnx` first. feeds: inputs
    by name, for each volume; the first is timed. expected: outputs for each, () for an encoder.
    """

    subject: Subject
    word: str
    model: Model
    precision: str
    files: tuple[Path, ...]
    feeds: tuple[Feed, ...]
    expected: tuple[Outputs, ...]

    @property
    def batch(self) -> int:
        """Volumes, or texts, of one run."""
        return len(self.feeds[0]["INPUT_IDS"]) if self.word == "text" else 1

    def judge(
        self, name: str, precision: str, outputs: Sequence[Outputs],
        tokens: ShowTokens | None = None,
    ) -> tuple[Parity, dict[str, Any]]:  # fmt: skip
        """The verdict on a runtime's outputs of each feed, and figures that it has no field for.

        precision: what the runtime computed in. tokens: of the vision graph.
        """
        subject = self.subject
        if self.word == "vision":
            answers = [
                StepAnswer.of({**each, **subject.heads.scores(each["IMAGE_EMBEDDING"])})
                for each in outputs
            ]
            return judge_answers(subject, name, precision, answers, tokens), {}
        if self.word == "text":
            return _judge_text(subject, name, precision, outputs[0]["TEXT_EMBEDDING"]), {}
        return self._judge_values(name, outputs)

    def _judge_values(self, name: str, outputs: Sequence[Outputs]) -> tuple[Parity, dict[str, Any]]:
        """Every output, element by element."""
        if self.word == "preprocess":
            against = "PyTorch float64"
        elif self.subject.model and self.subject.served is self.subject.heads:
            against = "PyTorch float32, by the checkpoint"
        else:
            against = "PyTorch float32, by the graph's own constants"
        worst: dict[str, float] = {}
        try:
            for got, wanted in zip(outputs, self.expected, strict=True):
                for each in compare(name, got, wanted, _BOUNDS):
                    worst[each.quantity] = max(each.measured, worst.get(each.quantity, 0.0))
        except ParityError as error:
            return Parity("FAIL", against, reason=error.cause), {}
        parity = Parity(
            "PASS", against, logit_difference=worst.get("LOGITS"),
            probability_difference=worst.get("PROBABILITIES"),
        )  # fmt: skip
        quantity = self.model.outputs[0].name
        bound = _BOUNDS[quantity]
        figures = {"largest_difference": worst[quantity], "allowed": bound.absolute}
        return parity, figures | ({"allowed_relative": bound.relative} if bound.relative else {})


def case_of(subject: Subject, word: str) -> Case:
    """word: "vision", "text", …; "classfine" only where the release has it."""
    models = {model.name: model for model in (*MODELS, *CLASSFINE_MODELS)}
    model, release = models[f"ctclip_{word}"], subject.inputs.release
    path = subject.inputs.file(model.name)
    feeds = _feeds(subject, word)
    expected: list[Outputs] = []
    if word == "preprocess":
        expected = [{"VOXELS": each} for each in subject.voxels]
    elif word not in ENCODERS:
        names = [tensor.name for tensor in model.outputs]
        runner = TorchRunner(subject.served.function(word), names)
        for feed in feeds:
            runner.bind(feed)
            runner.run()
            expected.append(runner.outputs())
    return Case(
        subject, word, model, precision_of(model, release.precision),
        (path, *sorted(path.parent.glob("model_*.onnx"))), feeds, tuple(expected),
    )  # fmt: skip


def _feeds(subject: Subject, word: str) -> tuple[Feed, ...]:
    if word == "text":
        some = slice(0, TEXT_ENCODER.max_batch_size)
        return ({"INPUT_IDS": subject.ids[some], "ATTENTION_MASK": subject.mask[some]},)
    if word == "vision":
        return tuple({"VOXELS": voxels} for voxels in subject.voxels)
    if word == "preprocess":
        return tuple(volume.tensors() for volume in subject.volumes)
    if word == "relevance":
        return tuple(
            {"CODES": np.asarray(answer.codes)[None], "IMAGE_NORM": norm}
            for answer, norm in zip(subject.answers, subject.norms, strict=True)
        )
    texts = {"TEXT_EMBEDDING": subject.served.bank.numpy()} if word == "score" else {}
    return tuple(
        {"IMAGE_EMBEDDING": answer.image_embedding[None], **texts} for answer in subject.answers
    )


def judge_answers(
    subject: Subject, name: str, precision: str, answers: Sequence[StepAnswer],
    tokens: ShowTokens | None = None,
) -> Parity:  # fmt: skip
    """Answers to the subject's volumes, in their order, against the reference's: codes, embeddings,
    and the scores that follow from them.
    """

    def compared(some: Sequence[StepAnswer]) -> StepVerdict:
        return judge(
            name, some, subject.answers, _bounds(subject, precision),
            codebook=subject.codebook, similarity_error=FLOAT32_ERROR,
        )  # fmt: skip

    verdict = compared(answers)
    if verdict.verdict != "PASS" and verdict.flipped_margin and tokens is not None:
        # Codes differ where the reference does not hesitate within float32's own error. Whether
        # that is this runtime's error of the similarity, its tokens tell.
        pairs = zip(answers, tokens(subject.voxels), strict=True)
        verdict = compared([replace(answer, tokens=shown) for answer, shown in pairs])
    return Parity.of(verdict, subject.against)


def _judge_text(subject: Subject, name: str, precision: str, texts: NDArray[np.float32]) -> Parity:
    """Embeddings of the bank's sentences, and the scores of the reference's images with them."""

    def scored(bank: NDArray[np.float32]) -> list[StepAnswer]:
        images = [answer.image_embedding for answer in subject.answers]
        scores = subject.heads.scores(np.stack(images), bank)
        each = zip(images, scores["LOGITS"], scores["PROBABILITIES"], strict=True)
        return [StepAnswer(None, *answer, bank) for answer in each]

    expected = scored(subject.heads.bank[: len(texts)].numpy())
    verdict = judge(name, scored(texts), expected, _bounds(subject, precision))
    parity = Parity.of(verdict, subject.against)
    return replace(parity, cosine=verdict.text_cosine, codes_agree=None)


def _bounds(subject: Subject, precision: str) -> Bounds:
    return bounds_for(precision, math.prod(subject.inputs.release.geometry.token_shape))
