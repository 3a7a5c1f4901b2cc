"""A repository with a ClassFine head, and one in the middle of a promotion, on real servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from ctclip_client import Classification, Client, Scores, Unavailable, Volume
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.transport import retries
from ctclip_export.checkpoint import Checkpoint
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..pages import Page
from .conftest import Connect

NAMES = tuple(entry.finding for entry in PUBLISHED_FINDINGS)


@pytest.fixture(scope="module")
def server(
    classfine_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedTriton]:
    """Its ensembles belong to one release; asked directly, `ctclip_check` is already the next one,
    as it is while a promotion is under way."""
    folder = tmp_path_factory.mktemp("promotion") / "model_repository"
    shutil.copytree(classfine_repository, folder)
    check = folder / "ctclip_check"
    shutil.copytree(check / "1", check / "2")
    record = json.loads((check / "1" / "provenance.json").read_text())
    record["release"]["release"] = "the next one"
    (check / "2" / "provenance.json").write_text(json.dumps(record))
    config = check / "config.pbtxt"
    served = config.read_text()
    assert "versions: [1]" in served
    config.write_text(served.replace("versions: [1]", "versions: [1, 2]"))
    with EmbeddedTriton(folder) as triton:
        yield triton


@pytest.fixture(scope="module")
def volume(golden: Golden) -> Volume:
    return chest_phantom(golden.geometry, seed=5)


def test_golden_probabilities_through_the_server(golden: Golden, server: EmbeddedTriton) -> None:
    """Upstream's own numbers, from upstream's own embeddings."""
    with triton.InferenceServerClient(server.grpc_url) as client:
        voxels = triton.InferInput("VOXELS", [3, 1, *golden.case["volume_shape"]], "FP32")
        voxels.set_data_from_numpy(golden.expected["b3_volume"])
        embeddings = client.infer("ctclip_vision", [voxels]).as_numpy("IMAGE_EMBEDDING")
        for array in (embeddings, embeddings[1:2]):
            embedding = triton.InferInput("IMAGE_EMBEDDING", list(array.shape), "FP32")
            embedding.set_data_from_numpy(np.ascontiguousarray(array))
            got = client.infer("ctclip_classfine", [embedding]).as_numpy("PROBABILITIES")
            expected = golden.expected["b3_lipro_probabilities"]
            np.testing.assert_allclose(
                got, expected if len(array) == 3 else expected[1:2], rtol=0, atol=1e-4
            )


def test_classify_is_the_head_on_the_scans_own_embedding(
    connect: Connect, server: EmbeddedTriton, classfine: Checkpoint, volume: Volume
) -> None:
    with connect(server.grpc_url) as client:
        client.check_ready("ctclip_classify")
        got = client.classify(volume)
        embedding = client.encode_image(volume)
    assert type(got) is Classification
    assert not isinstance(got, Scores)
    assert not hasattr(got, "logits")
    assert got.findings == got.provenance.classes == NAMES
    assert got.probabilities.shape == (18,)
    assert got.probabilities.dtype == np.float32
    assert got.transport.kind == "shared_memory"
    assert set(got.timings_ms) == {"pack", "infer", "total"}
    np.testing.assert_allclose(got.image_embedding, embedding, rtol=0, atol=1e-5)
    assert classfine.classifier is not None
    with torch.no_grad():
        expected = classfine.classifier(torch.from_numpy(embedding[None]))[0].numpy()
    np.testing.assert_allclose(got.probabilities, expected, rtol=0, atol=1e-5)
    entry = got.to_json()["findings"][9]
    assert entry == {
        "finding": "Lung nodule",
        "probability": float(got.probabilities[9]),
        "logit_present": None,
        "logit_absent": None,
    }


def test_two_releases_are_not_mixed(
    server: EmbeddedTriton, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the second attempt either, which starts with the scan: its release was the old one."""

    def scans() -> int:
        with triton.InferenceServerClient(server.grpc_url) as asking:
            (model,) = asking.get_inference_statistics("ctclip_vision").model_stats
        return int(model.inference_count)

    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.01)
    pairs = [(entry.present, entry.absent) for entry in PUBLISHED_FINDINGS] * 2
    with Client(server.grpc_url, retries=1) as client:
        assert len(client.zero_shot(volume, pairs[:32]).findings) == 32  # one call, one release
        before = scans()
        with pytest.raises(Unavailable, match="to the next one between the calls") as caught:
            client.zero_shot(volume, pairs)
        assert scans() - before == 2
    assert "promotion" in caught.value.remedy


def test_a_page_without_maps(server: EmbeddedTriton, phantoms: Path, tmp_path: Path) -> None:
    """The head's answer has none, and its page says so."""
    page = tmp_path / "a.html"
    asked = [str(phantoms / "ct0.nii.gz"), "--url", server.grpc_url]
    assert main(["predict", *asked, "--classify", "--report", str(page)]) == 0
    found = Page(page.read_bytes())
    assert "not for the answer of a trained head" in found.text
    assert found.with_id("maps") == ""
    assert found.with_id("ct")
