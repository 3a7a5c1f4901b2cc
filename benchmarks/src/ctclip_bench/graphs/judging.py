"""The parity figure of a row: what a runtime answered against the reference, by the one judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_bench.graphs.runners import Outputs
from ctclip_bench.graphs.subject import Subject
from ctclip_bench.parity.run import FLOAT32_ERROR
from ctclip_bench.results.result import Parity
from ctclip_export.parity.check_fp32 import (
    LOGIT_BOUND,
    PROBABILITY_BOUND,
    RELEVANCE_BOUND,
    VOXELS_BOUND,
)
from ctclip_export.parity.compare import Bound, ParityError, compare
from ctclip_export.parity.judge import Bounds, StepAnswer, StepVerdict, bounds_for, judge

Tokens = Callable[[], list[NDArray[np.float32]]]
"""Unit tokens (N, W) of each volume, from a graph or model that shows them; it costs a run each."""


@dataclass(frozen=True)
class Found:
    """What a row is judged by. outputs: of each feed, in their order."""

    name: str
    precision: str
    outputs: Sequence[Outputs]
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Verdict:
    """A row's parity, and figures that `Parity` has no field for."""

    parity: Parity
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the row may have times."""
        return self.parity.verdict == "PASS"


Judge = Callable[[Found], Verdict]


def judge_vision(subject: Subject) -> Judge:
    """Codes, embeddings, and the scores that follow from them."""

    def judged(found: Found) -> Verdict:
        answers = [
            StepAnswer.of({**outputs, **subject.heads.scores(outputs["IMAGE_EMBEDDING"])})
            for outputs in found.outputs
        ]
        return judge_answers(subject, found, answers)

    return judged


def judge_answers(subject: Subject, found: Found, answers: Sequence[StepAnswer]) -> Verdict:
    """Answers to the subject's volumes, in their order, against the reference's."""

    def compared(some: Sequence[StepAnswer]) -> StepVerdict:
        return judge(
            found.name, some, subject.answers, _bounds(subject, found.precision),
            codebook=subject.codebook, similarity_error=FLOAT32_ERROR,
        )  # fmt: skip

    verdict = compared(answers)
    if verdict.verdict != "PASS" and verdict.flipped_margin and found.tokens is not None:
        # Codes differ where the reference does not hesitate within float32's own error. Whether
        # that is this runtime's error of the similarity, its tokens tell.
        shown = found.tokens()
        verdict = compared([
            replace(answer, tokens=each) for answer, each in zip(answers, shown, strict=True)
        ])  # fmt: skip
    return Verdict(Parity.of(verdict, subject.against))


def judge_text(subject: Subject) -> Judge:
    """Embeddings of the bank's sentences, and the scores of the reference's images with them."""

    def judged(found: Found) -> Verdict:
        texts = found.outputs[0]["TEXT_EMBEDDING"]
        expected = subject.heads.bank[: len(texts)]
        answers = [_with_texts(subject, each, texts) for each in subject.answers]
        references = [_with_texts(subject, each, expected) for each in subject.answers]
        verdict = judge(found.name, answers, references, _bounds(subject, found.precision))
        parity = Parity.of(verdict, subject.against)
        return Verdict(replace(parity, cosine=verdict.text_cosine, codes_agree=None))

    return judged


def _with_texts(subject: Subject, reference: StepAnswer, texts: NDArray[np.float32]) -> StepAnswer:
    scores = subject.heads.scores(reference.image_embedding[None], texts)
    return StepAnswer(
        None, reference.image_embedding, scores["LOGITS"][0], scores["PROBABILITIES"][0], texts
    )


def judge_values(
    expected: Sequence[Mapping[str, NDArray[Any]]], against: str, bounds: Mapping[str, Bound]
) -> Judge:
    """Every output, element by element: for graphs that are float32 in every release."""

    def judged(found: Found) -> Verdict:
        worst: dict[str, float] = {}
        try:
            for got, wanted in zip(found.outputs, expected, strict=True):
                for each in compare(found.name, got, wanted, bounds):
                    known = worst.get(each.quantity, 0.0)
                    worst[each.quantity] = max(known, each.measured)
        except ParityError as error:
            return Verdict(Parity("FAIL", against, reason=error.cause))
        parity = Parity(
            "PASS", against, logit_difference=worst.get("LOGITS"),
            probability_difference=worst.get("PROBABILITIES"),
        )  # fmt: skip
        quantity = next(iter(bounds))
        figures = {"largest_difference": worst[quantity], "allowed": bounds[quantity].absolute}
        if bounds[quantity].relative:
            figures["allowed_relative"] = bounds[quantity].relative
        return Verdict(parity, figures)

    return judged


VALUE_BOUNDS: dict[str, dict[str, Bound]] = {
    "preprocess": {"VOXELS": VOXELS_BOUND},
    "score": {"LOGITS": LOGIT_BOUND, "PROBABILITIES": PROBABILITY_BOUND},
    "findings": {"LOGITS": LOGIT_BOUND, "PROBABILITIES": PROBABILITY_BOUND},
    "relevance": {"RELEVANCE": RELEVANCE_BOUND},
    "classfine": {"PROBABILITIES": PROBABILITY_BOUND},
}
"""Those that an export is held to."""


def _bounds(subject: Subject, precision: str) -> Bounds:
    tokens = math.prod(subject.inputs.release.geometry.token_shape)
    return bounds_for(precision, tokens)
