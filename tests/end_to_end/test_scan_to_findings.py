"""A CT file goes in, findings come out: file, client, Triton and every graph, against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from ctclip_client import Client, InvalidInput, Volume, read_volume
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_export.checkpoint import Checkpoint, TextModel
from ctclip_export.parity.reference import reference_answer
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..nifti_files import save_volume


@pytest.fixture(scope="module")
def phantom(golden: Golden) -> Volume:
    return chest_phantom(golden.geometry, seed=3)


@pytest.mark.parametrize("codes", ["LPS", "LAS", "RAS", "SLP"])
def test_a_file_in_any_orientation_gives_what_pytorch_computes(
    codes: str,
    phantom: Volume,
    golden: Golden,
    checkpoint: Checkpoint,
    text_model: TextModel,
    server: EmbeddedTriton,
    tmp_path: Path,
) -> None:
    scan = read_volume(save_volume(tmp_path / "scan.nii.gz", phantom, codes))
    with Client(server.grpc_url) as client:
        served = client.pathologies(scan)
    expected = reference_answer(
        checkpoint, text_model, golden.geometry, phantom, PUBLISHED_FINDINGS
    )
    for got, reference in (
        (served.image_embedding, expected.image_embedding),
        (served.logits, expected.logits),
        (served.probabilities, expected.probabilities),
    ):
        np.testing.assert_allclose(got, reference, rtol=0, atol=1e-4)


def test_orientation_is_not_ignored(phantom: Volume, server: EmbeddedTriton) -> None:
    """The test above could pass if nothing depended on orientation; it does."""
    mirrored = Volume.from_array(
        np.ascontiguousarray(phantom.voxels[:, ::-1]), phantom.spacing_mm, phantom.rescale
    )
    with Client(server.grpc_url) as client:
        cosine = client.encode_image(phantom) @ client.encode_image(mirrored)
    assert cosine < 0.999


def test_golden_scores_through_the_server(golden: Golden, server: EmbeddedTriton) -> None:
    """Upstream's own numbers: vision by the server's batch of three, then its score model."""
    client = triton.InferenceServerClient(server.grpc_url)
    try:
        voxels = triton.InferInput("VOXELS", [3, 1, *golden.case["volume_shape"]], "FP32")
        voxels.set_data_from_numpy(golden.expected["b3_volume"])
        vision = client.infer("ctclip_vision", [voxels])
        np.testing.assert_array_equal(vision.as_numpy("CODES"), golden.expected["b3_codes"])
        np.testing.assert_allclose(
            vision.as_numpy("IMAGE_EMBEDDING"), golden.expected["b3_image_latent"], atol=1e-5
        )
        embedding = triton.InferInput("IMAGE_EMBEDDING", [1, 32], "FP32")
        embedding.set_data_from_numpy(golden.expected["b1_image_latent"])
        findings = client.infer("ctclip_findings", [embedding])
        np.testing.assert_allclose(
            findings.as_numpy("LOGITS")[0], golden.expected["zero_shot_logits"], atol=1e-5
        )
    finally:
        client.close()


def test_free_prompts_are_the_bank_and_texts_are_upstreams(
    phantom: Volume, golden: Golden, server: EmbeddedTriton
) -> None:
    pairs = [(entry.present, entry.absent) for entry in PUBLISHED_FINDINGS]
    with Client(server.grpc_url) as client:
        bank = client.pathologies(phantom)
        free = client.zero_shot(phantom, pairs)
        many = client.zero_shot(phantom, pairs * 3)  # more than the text encoder takes at once
        texts = client.encode_text(golden.case["report_texts"])
    np.testing.assert_allclose(free.logits, bank.logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(many.logits, np.tile(bank.logits, (3, 1)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(texts, golden.expected["report_text_latent"], rtol=0, atol=1e-5)


def test_classic_bugs_are_not_there(
    phantom: Volume, server: EmbeddedTriton, checkpoint: Checkpoint
) -> None:
    """More than one pair at once: each must be scored for itself, as if it were alone."""
    pairs = [("Wall.", "No wall."), ("Nodule is present.", "Nodule is not present.")]
    with Client(server.grpc_url) as client:
        together = client.zero_shot(phantom, pairs)
        alone = [client.zero_shot(phantom, [pair]) for pair in pairs]
    expected = np.concatenate([scores.logits for scores in alone])
    np.testing.assert_allclose(together.logits, expected, rtol=0, atol=1e-5)
    scale = float(torch.exp(checkpoint.model.temperature))
    assert np.abs(together.logits).max() <= scale * 1.0001


def test_predict_prints_what_the_client_returns(
    phantom: Volume, server: EmbeddedTriton, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_volume(tmp_path / "scan.nii.gz", phantom, "LAS")
    assert main(["predict", str(path), "--url", server.grpc_url, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    printed = json.loads(line)
    with Client(server.grpc_url) as client:
        scores = client.pathologies(read_volume(path))
    assert [entry["finding"] for entry in printed["findings"]] == list(scores.findings)
    probabilities = [entry["probability"] for entry in printed["findings"]]
    np.testing.assert_allclose(probabilities, scores.probabilities, rtol=0, atol=1e-6)
    assert printed["recipe"]["orientation"] == "LAS"
    assert printed["provenance"]["checkpoint"]["name"] == "ctclip.pt"


@pytest.mark.parametrize("method", ["pathologies", "explain", "encode_image"])
def test_a_slice_that_is_too_thin_is_the_callers_error(method: str, server: EmbeddedTriton) -> None:
    thin = Volume.from_array(np.zeros((9, 9, 1), np.int16), (2.5, 0.7, 0.7), (1, 0))
    with (
        Client(server.grpc_url) as client,
        pytest.raises(InvalidInput, match=r"1 voxels of 0\.7 mm along y .* model's, .* 0\.75 mm"),
    ):
        getattr(client, method)(thin)
