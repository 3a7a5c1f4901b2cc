"""The self-check that an export writes: the reference's own answer, and the judge's bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.doctor.phantom import small_phantom
from ctclip_client.release.self_check import FILE, SelfCheck, read_self_check
from ctclip_export.checkpoint import Checkpoint, TextModel
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.compare import ParityError
from ctclip_export.parity.judge import bounds_for
from ctclip_export.parity.self_check import check_answer
from ctclip_export.precision.choices import PRECISIONS
from ctclip_export.repository.build import Export
from ctclip_export.text.tokens import Ids, tokenised

from ..conftest import Golden

SENTENCES = tuple(text for entry in PUBLISHED_FINDINGS for text in (entry.present, entry.absent))


@pytest.fixture(scope="module")
def tokens(text_model: TextModel) -> tuple[Ids, Ids]:
    return tokenised(SENTENCES, text_model.vocabulary_bytes.decode())


@pytest.fixture
def written(repository: Path) -> SelfCheck:
    return read_self_check(repository / "ctclip_check" / "1" / FILE)


@torch.no_grad()
def test_it_holds_what_the_reference_answers(
    written: SelfCheck, checkpoint: Checkpoint, golden: Golden, tokens: tuple[Ids, Ids]
) -> None:
    phantom = small_phantom()
    np.testing.assert_array_equal(written.volume, phantom.voxels)
    assert tuple(written.spacing) == phantom.spacing_mm
    assert tuple(written.rescale) == phantom.rescale
    assert written.prompts == SENTENCES
    model = checkpoint.model
    voxels = preprocess(phantom.voxels, phantom.spacing_mm, phantom.rescale, golden.geometry)
    image, _, codes = model.vision(voxels)
    logits, probabilities = model.score(image, model.text(*map(torch.from_numpy, tokens)))
    np.testing.assert_array_equal(written.image_embedding, image.numpy())
    np.testing.assert_array_equal(written.logits, logits.numpy())
    np.testing.assert_allclose(written.probabilities, probabilities.numpy(), atol=1e-6)
    assert len(np.unique(codes)) > 10  # it tells something apart


def test_its_bounds_are_the_judges(written: SelfCheck, checkpoint: Checkpoint) -> None:
    assert set(written.tolerances) == set(PRECISIONS)
    scale = float(checkpoint.model.temperature.exp())
    for precision, tolerance in written.tolerances.items():
        bounds = bounds_for(precision, 60)
        assert (tolerance.cosine, tolerance.probability) == (bounds.cosine, bounds.probability)
        # Image and text both turned by as much as the cosine allows, against each other.
        angle = math.acos(bounds.cosine)
        assert scale * 2 * math.sin(angle) <= tolerance.logit <= scale * 2.01 * angle


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_it_is_of_its_release_small_and_beside_the_record(
    precision: str, exported_in: Callable[[str], Export]
) -> None:
    export = exported_in(precision)
    folder = export.repository / "ctclip_check" / "1"
    check = read_self_check(folder / FILE)
    assert (check.release, check.precision) == (export.release["release"], precision)
    record = json.loads((folder / "provenance.json").read_text())["release"]
    assert record == export.release
    assert "self" not in json.dumps(record)  # what clients are told has not changed
    assert (folder / FILE).stat().st_size < 200_000


def test_the_export_says_how_its_graphs_did(exported_in: Callable[[str], Export]) -> None:
    told = {found.quantity: found for found in exported_in("fp32").agreements}
    for quantity in ("1 − cosine", "|Δlogit|", "|Δprobability|"):
        found = told[f"self-check: {quantity}"]
        assert found.measured <= found.absolute


@torch.no_grad()
def test_graphs_that_would_fail_it_are_refused(
    written: SelfCheck, repository: Path, checkpoint: Checkpoint, tokens: tuple[Ids, Ids]
) -> None:
    texts = checkpoint.model.text(*map(torch.from_numpy, tokens)).numpy()
    image = written.image_embedding
    score = repository / "ctclip_score" / "1" / "model.onnx"
    assert check_answer(written, score, image, texts)
    with pytest.raises(ParityError, match=r"self-check on a phantom in fp32: cosine of the embed"):
        check_answer(written, score, np.roll(image, 1, axis=1), texts)
