"""The judge passes what is sound and fails everything else, by name."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctclip_client.contract import TEXT_ENCODER
from ctclip_export.parity.figures import spearman
from ctclip_export.parity.judge import BOUNDS, Bounds, StepAnswer, StepVerdict, judge
from ctclip_export.precision.choices import precision_of

ERROR = 1e-3
LOOSE = Bounds(codes=0.5, cosine=0.9, probability=0.1)
MARGINS = np.linspace(1e-4, 0.1, 24)
CODEBOOK = torch.eye(2)


def tokens_with(margins: NDArray[np.float64]) -> NDArray[np.float32]:
    """Unit tokens (N, 2) whose similarities with the two codes differ by `margins`."""
    angles = np.arccos(margins / math.sqrt(2)) - math.pi / 4
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def answer(**changes: NDArray[np.generic]) -> StepAnswer:
    base = StepAnswer(
        codes=np.arange(24, dtype=np.int32).reshape(2, 3, 4),
        image_embedding=np.eye(8, dtype=np.float32)[0],
        logits=np.zeros((3, 2), np.float32),
        probabilities=np.array([0.2, 0.5, 0.9], np.float32),
        tokens=tokens_with(MARGINS),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def flipped(index: tuple[int, int, int]) -> NDArray[np.int32]:
    codes = answer().codes
    assert codes is not None
    codes = codes.copy()
    codes[index] += 100
    return codes


def judged(*answers: StepAnswer, bounds: Bounds = LOOSE, error: float = ERROR) -> StepVerdict:
    """Of steps that hide their tokens."""
    hidden = [replace(each, tokens=None) for each in answers]
    return judge(
        "step", hidden, [answer()] * len(hidden), bounds,
        codebook=CODEBOOK, similarity_error=error,
    )  # fmt: skip


def test_the_same_passes() -> None:
    verdict = judged(answer(), bounds=BOUNDS["fp32"], error=0.0)
    assert (verdict.verdict, verdict.codes_agree, verdict.cosine) == ("PASS", 1.0, 1.0)


def test_a_flip_is_forgiven_only_where_the_reference_hesitated() -> None:
    tie, sure = answer(codes=flipped((0, 0, 0))), answer(codes=flipped((1, 2, 3)))
    assert judged(tie).verdict == "PASS"
    assert judged(tie, error=1e-6).verdict == "FAIL"
    verdict = judged(sure)
    assert verdict.verdict == "FAIL"
    assert "reference's margin is 1.0e-01" in verdict.reason


def test_where_tokens_are_shown_the_error_is_measured() -> None:
    """The same flip is forgiven to the step whose similarities are off by that much."""
    tie = answer(codes=flipped((0, 0, 0)))
    exact = judge("step", [tie], [answer()], LOOSE, codebook=CODEBOOK, similarity_error=1.0)
    assert (exact.verdict, exact.similarity_error) == ("FAIL", 0.0)
    moved = replace(tie, tokens=tokens_with(MARGINS + 1e-3))
    verdict = judge("step", [moved], [answer()], LOOSE, codebook=CODEBOOK)
    assert verdict.verdict == "PASS"
    assert verdict.similarity_error == pytest.approx(1e-3 / 2, rel=0.2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_embedding": np.eye(8, dtype=np.float32)[1]}, "cosine 0.000000"),
        ({"probabilities": np.array([0.2, 0.5, 0.7], np.float32)}, "|Δprobability| 2.0e-01"),
        ({"probabilities": np.array([0.2, np.nan, 0.9], np.float32)}, "NaN or infinite"),
        ({"logits": np.full((3, 2), np.inf, np.float32)}, "logits: NaN or infinite"),
        ({"logits": np.zeros((2, 2), np.float32)}, "logits: shape (2, 2), expected (3, 2)"),
        ({"codes": np.zeros((2, 3, 4), np.int64)}, "codes: int64, expected int32"),
        ({"codes": np.zeros((2, 3, 4), np.int32)}, "codes agree"),
        ({"image_embedding": np.zeros(8, np.float32)}, "cosine nan"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_every_other_difference_fails(changes: dict[str, NDArray[np.generic]], reason: str) -> None:
    verdict = judged(answer(), answer(**changes), error=1.0)
    assert verdict.verdict == "FAIL"
    assert reason in verdict.reason


@pytest.mark.parametrize(("answers", "volumes"), [(0, 0), (0, 1), (1, 2)])
def test_nothing_and_too_little_fail(answers: int, volumes: int) -> None:
    verdict = judge("step", [answer()] * answers, [answer()] * volumes, LOOSE)
    assert verdict.verdict == "FAIL"


def test_spearman() -> None:
    a = np.array([0.1, 0.4, 0.2, 0.9], np.float32)
    assert spearman(a, a) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    # 1 − 6·Σd²/(n(n²−1)) with ranks 1 3 2 4 against 1 2 3 4
    assert spearman(a, np.array([1, 2, 3, 4], np.float32)) == pytest.approx(1 - 6 * 2 / 60)


def test_the_text_engine_of_an_int8_release_is_a_float32_one() -> None:
    assert precision_of(TEXT_ENCODER, "int8") == "fp32"
