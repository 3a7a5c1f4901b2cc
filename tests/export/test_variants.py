"""ClassFine heads and relevance maps: against upstream's numbers, and against plain sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.errors import InvalidInput
from ctclip_export.checkpoint import Checkpoint, TextModel, load_checkpoint
from ctclip_export.graphs.relevance import relevance_graph
from ctclip_export.graphs.run import run_onnx
from ctclip_export.graphs.score import classfine_graph
from ctclip_export.parity.check_fp32 import check_relevance
from ctclip_export.parity.compare import ParityError

from ..conftest import Golden


@pytest.mark.parametrize("batch", [1, 3])
def test_classfine_is_upstreams(batch: int, golden: Golden, classfine: Checkpoint) -> None:
    assert classfine.variant == "classfine"
    assert classfine.classifier is not None
    volume = torch.from_numpy(golden.expected[f"b{batch}_volume"])
    with torch.no_grad():
        embedding = classfine.model.vision(volume)[0]
        reference = classfine.classifier(embedding).numpy()
    head = classfine.classifier.linear
    graph = classfine_graph(head.weight.numpy(), head.bias.numpy())
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (served,) = session.run(None, {"IMAGE_EMBEDDING": embedding.numpy()})
    expected = golden.expected[f"b{batch}_lipro_probabilities"]
    for got in (reference, served):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_a_head_beside_its_own_v2_file(
    golden: Golden, text_model: TextModel, classfine: Checkpoint
) -> None:
    both = load_checkpoint(
        golden.checkpoint, text_model, golden.geometry, golden.folder / "ct_lipro.pt"
    )
    assert both.variant == "v2"
    assert both.classifier is not None
    assert classfine.classifier is not None
    assert torch.equal(both.classifier.linear.weight, classfine.classifier.linear.weight)


def test_a_head_beside_another_vision_encoder_is_refused(
    golden: Golden, text_model: TextModel, tmp_path: Path
) -> None:
    state = torch.load(golden.folder / "ct_lipro.pt", weights_only=True)
    name = "trained_model.visual_transformer.to_patch_emb.2.bias"
    state[name] = state[name] + 1e-3
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(InvalidInput, match=r"'visual_transformer.to_patch_emb.2.bias' differs"):
        load_checkpoint(golden.checkpoint, text_model, golden.geometry, tmp_path / "other.pt")
    with pytest.raises(InvalidInput, match="no classifier"):
        load_checkpoint(golden.checkpoint, text_model, golden.geometry, golden.checkpoint)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("classifier.bias", None, "'classifier.bias' is missing"),
        ("classifier.weight", torch.zeros(17, 32), r"is \(17, 32\), expected \(18, 32\)"),
        ("classifier.weight", torch.full((18, 32), torch.nan), "not finite"),
        ("classifier.scale", torch.zeros(3), "unexpected: classifier.scale"),
    ],
)
def test_damaged_heads_are_refused(
    name: str,
    tensor: torch.Tensor | None,
    message: str,
    golden: Golden,
    text_model: TextModel,
    tmp_path: Path,
) -> None:
    state = torch.load(golden.folder / "ct_lipro.pt", weights_only=True)
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    torch.save(state, tmp_path / "damaged.pt")
    with pytest.raises(InvalidInput, match=message):
        load_checkpoint(tmp_path / "damaged.pt", text_model, golden.geometry)


@pytest.mark.parametrize("batch", [1, 3])
def test_maps_add_up_and_are_the_plain_sum(
    batch: int, golden: Golden, checkpoint: Checkpoint, repository: Path
) -> None:
    """From weights, term by term, as the formula is written; nothing shared with the exporter."""
    vision = run_onnx(
        repository / "ctclip_vision" / "1" / "model.onnx",
        {"VOXELS": golden.expected[f"b{batch}_volume"]},
    )
    codes, norm = vision["CODES"], vision["IMAGE_NORM"]
    maps = run_onnx(
        repository / "ctclip_relevance" / "1" / "model.onnx", {"CODES": codes, "IMAGE_NORM": norm}
    )["RELEVANCE"]
    slabs, rows, columns = codes.shape[1:]
    assert maps.shape == (batch, len(PUBLISHED_FINDINGS), slabs, rows, columns)

    state = torch.load(golden.checkpoint, weights_only=True)
    codebook = state["visual_transformer.vq._codebook.embed"][0].double().numpy()
    width = codebook.shape[1]
    projection = state["to_visual_latent.weight"].double().numpy()
    projection = projection.reshape(-1, rows, columns, width)  # (E, R, C, W)
    scale = float(state["temperature"].double().exp())
    text = golden.expected["prompt_text_latent"].astype(np.float64)
    finding, v = 9, batch - 1
    difference = text[2 * finding] - text[2 * finding + 1]
    for t, r, c in np.ndindex(slabs, rows, columns):
        share = difference @ projection[:, r, c] @ codebook[codes[v, t, r, c]]
        expected = scale * share / slabs / float(norm[v, 0])
        assert maps[v, finding, t, r, c] == pytest.approx(expected, abs=1e-5)

    scores = run_onnx(
        repository / "ctclip_findings" / "1" / "model.onnx",
        {"IMAGE_EMBEDDING": vision["IMAGE_EMBEDDING"]},
    )["LOGITS"]
    np.testing.assert_allclose(
        maps.sum(axis=(2, 3, 4)), scores[..., 0] - scores[..., 1], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("code", "norm"),
    [(256, 1.0), (-1, 1.0), (0, 0.0), (0, -1.0), (0, np.nan), (0, np.inf), (0, 1e-45)],
)
def test_impossible_codes_and_norms_are_refused(
    code: int, norm: float, golden: Golden, repository: Path
) -> None:
    codes = golden.expected["b1_codes"].astype(np.int32)
    codes[0, 1, 2, 3] = code
    inputs = {"CODES": codes, "IMAGE_NORM": np.array([[norm]], np.float32)}
    field = "IMAGE_NORM: expected" if code == 0 else "CODES: every code must lie inside"
    with pytest.raises(Exception, match=field):
        run_onnx(repository / "ctclip_relevance" / "1" / "model.onnx", inputs)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_one_bad_norm_of_several_is_enough(bad: float, golden: Golden, repository: Path) -> None:
    norms = np.array([[1.0], [bad], [2.0]], np.float32)
    inputs = {"CODES": golden.expected["b3_codes"].astype(np.int32), "IMAGE_NORM": norms}
    with pytest.raises(Exception, match="IMAGE_NORM: expected one finite length"):
        run_onnx(repository / "ctclip_relevance" / "1" / "model.onnx", inputs)


def test_norms_are_not_broadcast_over_volumes(golden: Golden, repository: Path) -> None:
    codes = golden.expected["b3_codes"].astype(np.int32)
    with pytest.raises(Exception, match="one finite length above 0 for each"):
        run_onnx(
            repository / "ctclip_relevance" / "1" / "model.onnx",
            {"CODES": codes, "IMAGE_NORM": np.ones((1, 1), np.float32)},
        )


def test_maps_of_other_prompts_are_caught(
    golden: Golden, checkpoint: Checkpoint, repository: Path, tmp_path: Path
) -> None:
    model = checkpoint.model
    vision = run_onnx(
        repository / "ctclip_vision" / "1" / "model.onnx", {"VOXELS": golden.expected["b1_volume"]}
    )
    text = golden.expected["prompt_text_latent"]
    with torch.no_grad():
        weights = model.relevance_weights(torch.from_numpy(np.roll(text, 2, axis=0))).numpy()
    graph = relevance_graph(weights, model.vision.codebook.numpy(), model.config.vision.token_shape)
    onnx.save(graph, tmp_path / "relevance.onnx")
    with pytest.raises(ParityError, match="ctclip_relevance"):
        check_relevance(tmp_path / "relevance.onnx", model, vision, text)
