"""Both clients against a real Triton that serves the golden checkpoint."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctclip_client import AsyncClient, Finding, NotReady, Scores, Volume
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from .conftest import Connect
from .test_failures import regions

PAIRS = [(entry.present, entry.absent) for entry in PUBLISHED_FINDINGS]

Make = Callable[..., Any]
"""Of options: a client, used in the same way whichever it is."""


@pytest.fixture
def make(connect: Connect, server: EmbeddedTriton) -> Make:
    return functools.partial(connect, server.grpc_url)


@pytest.fixture(scope="module")
def volume(golden: Golden) -> Volume:
    return chest_phantom(golden.geometry)


def test_findings_come_from_the_server(make: Make, volume: Volume) -> None:
    scores = make().pathologies(volume)
    assert scores.findings == tuple(entry.finding for entry in PUBLISHED_FINDINGS)
    assert scores.findings == scores.provenance.findings
    assert scores.probabilities.shape == (18,)
    assert scores.logits.shape == (18, 2)
    assert scores.probabilities.dtype == scores.logits.dtype == np.float32
    expected = 1 / (1 + np.exp(scores.logits[:, 1] - scores.logits[:, 0]))
    np.testing.assert_allclose(scores.probabilities, expected, rtol=0, atol=1e-6)
    assert abs(np.linalg.norm(scores.image_embedding) - 1) < 1e-5
    assert set(scores.timings_ms) == {"pack", "infer", "total"}
    assert scores.provenance.prompts == PUBLISHED_FINDINGS
    assert scores.provenance.precision == "fp32"


def test_maps_add_up_to_the_served_logits(make: Make, volume: Volume, golden: Golden) -> None:
    client = make()
    explanation = client.explain(volume)
    scores = client.pathologies(volume)
    assert isinstance(explanation, Scores)
    assert explanation.findings == scores.findings
    assert explanation.transport.kind == "shared_memory"
    assert set(explanation.timings_ms) == {"pack", "infer", "total"}
    np.testing.assert_allclose(explanation.logits, scores.logits, rtol=0, atol=1e-5)
    geometry, token_shape = explanation.provenance.geometry()
    assert geometry == golden.geometry
    assert explanation.relevance.dtype == np.float32
    assert explanation.relevance.shape == (18, *token_shape) == (18, 4, 3, 5)
    difference = explanation.logits[:, 0] - explanation.logits[:, 1]
    sums = explanation.relevance.sum(axis=(1, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(sums, difference, rtol=0, atol=1e-3)
    assert (explanation.relevance.std(axis=(1, 2, 3)) > 1e-4).all()  # they do say where


def test_a_repository_without_classfine_says_how_to_get_it(make: Make, volume: Volume) -> None:
    client = make()
    for call in (lambda: client.classify(volume), lambda: client.check_ready("ctclip_classify")):
        with pytest.raises(NotReady, match="the server has no ctclip_classify") as caught:
            call()
        assert "without a trained head" in caught.value.remedy
        assert "--classfine FILE" in caught.value.remedy
    assert client.pathologies(volume).provenance.classes == ()
    client.check_ready()
    client.check_ready("ctclip_explain")
    with pytest.raises(NotReady, match="ctclip_nothing is unknown"):
        client.check_ready("ctclip_nothing")


@pytest.mark.parametrize("shared", [True, False])
def test_both_transports_carry_the_same(shared: bool, make: Make, volume: Volume) -> None:
    scores = make(shared_memory=shared).pathologies(volume)
    assert scores.transport.kind == ("shared_memory" if shared else "grpc")
    assert scores.transport.bytes >= volume.voxels.nbytes
    expected = make().pathologies(volume)
    assert expected.transport.kind == "shared_memory"  # the server is on loopback
    np.testing.assert_array_equal(scores.logits, expected.logits)
    assert not regions()


def test_strided_voxels_arrive_like_contiguous_ones(make: Make, volume: Volume) -> None:
    turned = np.asfortranarray(volume.voxels)[:, ::-1, ::-1]
    turned = Volume.from_array(turned[:, ::-1, ::-1], volume.spacing_mm, volume.rescale)
    for shared in (True, False):
        client = make(shared_memory=shared)
        np.testing.assert_array_equal(client.encode_image(turned), client.encode_image(volume))


def test_an_axis_swapped_shows(make: Make, volume: Volume) -> None:
    other = Volume.from_array(volume.voxels.transpose(0, 2, 1), volume.spacing_mm, volume.rescale)
    client = make()
    assert np.abs(client.encode_image(other) - client.encode_image(volume)).max() > 1e-3


def test_prompts_of_ones_own(make: Make, volume: Volume) -> None:
    client = make()
    bank = client.pathologies(volume)
    pairs = client.zero_shot(volume, PAIRS)
    assert pairs.findings == tuple(entry.present for entry in PUBLISHED_FINDINGS)
    np.testing.assert_allclose(pairs.logits, bank.logits, rtol=0, atol=2e-4)
    named = client.zero_shot(volume, [Finding("Nodule", "A nodule.", "No nodule.")])
    assert named.findings == ("Nodule",)
    assert named.logits.shape == (1, 2)


@pytest.mark.parametrize("count", [32, 33, 70])
def test_any_number_of_prompts(count: int, make: Make, volume: Volume) -> None:
    client = make()
    pairs = [PAIRS[i % 18] for i in range(count)]
    scores = client.zero_shot(volume, pairs)
    assert len(scores.findings) == count
    expected = client.pathologies(volume)
    np.testing.assert_allclose(
        scores.logits, expected.logits[np.arange(count) % 18], rtol=0, atol=2e-4
    )
    np.testing.assert_array_equal(scores.image_embedding, expected.image_embedding)
    assert scores.transport.kind == "shared_memory"
    assert ("score" in scores.timings_ms) == (count > 32)


def test_texts_are_upstreams(make: Make, golden: Golden) -> None:
    texts = [text for pair in PAIRS for text in pair]
    embeddings = make().encode_text(texts)
    expected = golden.expected["prompt_text_latent"]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-5)


def test_any_number_of_texts_in_their_order(make: Make) -> None:
    client = make()
    some = [f"Nodule of {i} mm." for i in range(65)]
    texts = [*some, "", *some[:5], "long " * 2000]
    embeddings = client.encode_text(texts)
    assert embeddings.shape[0] == 72
    np.testing.assert_allclose(embeddings[66:71], embeddings[:5], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=0, atol=1e-5)
    np.testing.assert_allclose(client.encode_text([""])[0], embeddings[65], rtol=0, atol=1e-5)


def test_calls_side_by_side(server: EmbeddedTriton, volume: Volume) -> None:
    async def go() -> tuple[list[Scores], NDArray[np.float32]]:
        async with AsyncClient(server.grpc_url) as client:
            scans = [client.pathologies(volume) for _ in range(4)]
            *scores, texts = await asyncio.gather(*scans, client.encode_text(["a"]))
            return scores, texts

    scores, texts = asyncio.run(go())
    for other in scores[1:]:
        np.testing.assert_allclose(other.logits, scores[0].logits, rtol=0, atol=2e-4)
    assert texts.shape[0] == 1
