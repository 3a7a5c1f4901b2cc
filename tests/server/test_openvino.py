"""The drop-in openvino backend serving the golden checkpoint: float32 in force, bf16 by choice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tritonclient.utils import InferenceServerException

from ctclip_client import Client, Volume
from ctclip_client.errors import InvalidInput
from ctclip_export.checkpoint import Checkpoint
from ctclip_export.parity.runtimes import openvino_core
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server import EmbeddedTriton

from ..conftest import Golden
from .conftest import Caller

TIE_MARGIN = 2e-6
"""As in the exporter's parity checks: closer than float32 can tell."""


@pytest.fixture(scope="module")
def ask(openvino_server: EmbeddedTriton, caller: Callable[[EmbeddedTriton], Caller]) -> Caller:
    return caller(openvino_server)


def _precisions(log: str) -> dict[str, str]:
    """Model -> arithmetic, as read back from the compiled models."""
    return dict(re.findall(r"'(\w+)' computes in (\w+) with OpenVINO", log))


def _unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def _volumes(golden: Golden) -> np.ndarray:
    return golden.expected["b3_volume"].astype(np.float32)  # (3, 1, D, H, W)


@torch.no_grad()
def _margins(checkpoint: Checkpoint, volumes: np.ndarray) -> np.ndarray:
    """How far the reference prefers its best code to its second best: (B, T, H', W')."""
    vision = checkpoint.model.vision
    stages = vision.stages(torch.from_numpy(volumes))
    best = vision.similarities(vision.to_grid(stages.temporal_tokens)).topk(2, dim=-1).values
    return (best[..., 0] - best[..., 1]).numpy()


def test_float32_is_in_force_and_only_two_models_change_engine(openvino_server):
    log = openvino_server.log.read_text()
    assert _precisions(log) == {"ctclip_vision": "f32", "ctclip_text": "f32"}
    assert ", 1 streams" in log  # as the config says


def test_images_equal_the_golden_data(ask, golden, checkpoint):
    volumes = _volumes(golden)
    result = ask.client.infer("ctclip_vision", ask.inputs(VOXELS=volumes))
    different = result.as_numpy("CODES") != golden.expected["b3_codes"]
    assert np.all(_margins(checkpoint, volumes)[different] < TIE_MARGIN)
    expected = _unit(golden.expected["b3_image_latent"])
    sound = ~different.any(axis=(1, 2, 3))
    assert sound.any()
    got = result.as_numpy("IMAGE_EMBEDDING")
    assert np.abs(got - expected)[sound].max() < 1e-5


def test_texts_of_every_length_equal_the_golden_data(ask, golden):
    """One compiled model takes them all: the reports have 512 tokens, the prompts 64."""
    for kind in ("prompt", "report"):
        ids = golden.expected[f"{kind}_input_ids"].astype(np.int64)
        mask = (ids != 0).astype(np.int64)
        for rows, length in ((slice(None), ids.shape[1]), (slice(1), int(mask[0].sum()))):
            got = ask(
                "ctclip_text",
                "TEXT_EMBEDDING",
                INPUT_IDS=ids[rows, :length],
                ATTENTION_MASK=mask[rows, :length],
            )
            expected = _unit(golden.expected[f"{kind}_text_latent"][rows])
            assert np.abs(got - expected).max() < 1e-5


@pytest.mark.parametrize("beyond", [2**31, -(2**31) - 1, 2**32])
def test_ids_that_openvino_would_cut_to_32_bits_are_refused(beyond, ask):
    ids = np.zeros((1, 3), np.int64)
    with pytest.raises(InferenceServerException, match="that OpenVINO can hold in 32 bits"):
        ask("ctclip_text", INPUT_IDS=ids + beyond, ATTENTION_MASK=np.ones_like(ids))


def test_a_scan_through_the_client_gets_the_default_engines_answer(openvino_server, server, golden):
    scan = chest_phantom(golden.geometry)
    volume = Volume.from_array(scan.voxels, scan.spacing_mm, scan.rescale)
    prompts = [("Nodule is present.", "Nodule is not present.")]
    answers = []
    for url in (server.grpc_url, openvino_server.grpc_url):
        with Client(url) as client:
            answers.append((client.pathologies(volume), client.zero_shot(volume, prompts)))
    for one, other in zip(*answers, strict=True):
        assert other.provenance == one.provenance
        np.testing.assert_allclose(other.image_embedding, one.image_embedding, rtol=0, atol=1e-5)
        np.testing.assert_allclose(other.logits, one.logits, rtol=0, atol=1e-4)


def test_left_to_itself_openvino_takes_bf16_where_the_cpu_has_it(repository, golden):
    """Why float32 is pinned: on such a CPU the same file gives other answers."""
    core = openvino_core()
    path = repository / "ctclip_vision" / "1" / "model.onnx"
    unpinned = core.compile_model(core.read_model(path), "CPU")
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    found = unpinned.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert found == ("bf16" if has_bf16 else "f32")
    got = unpinned(_volumes(golden))[unpinned.output("IMAGE_EMBEDDING")]
    error = np.abs(got - _unit(golden.expected["b3_image_latent"])).max()
    assert (error > 1e-4) == has_bf16


def _bf16(repository: Path, log: Path) -> EmbeddedTriton:
    """A server of the text encoder alone."""
    return EmbeddedTriton(
        repository, config_name="openvino-bf16", log=log, model_control="explicit",
        load_models=["ctclip_text"],
    )  # fmt: skip


def test_bf16_by_choice_is_in_force_and_less_exact(
    needs_bfloat16, repository, caller, golden, tmp_path
):
    with _bf16(repository, tmp_path / "log") as triton:
        assert _precisions(triton.log.read_text()) == {"ctclip_text": "bf16"}
        ids = golden.expected["prompt_input_ids"].astype(np.int64)
        mask = (ids != 0).astype(np.int64)
        got = caller(triton)("ctclip_text", "TEXT_EMBEDDING", INPUT_IDS=ids, ATTENTION_MASK=mask)
    expected = _unit(golden.expected["prompt_text_latent"])
    assert np.abs(got - expected).max() > 1e-4
    assert (got * expected).sum(axis=-1).min() > 0.99


def test_bf16_on_a_cpu_without_it_is_refused_in_words(repository, monkeypatch, tmp_path):
    """OpenVINO itself would compute in float32, or imitate bf16."""
    monkeypatch.setenv("OV_CPU_MAX_ISA", "AVX512_CORE_VNNI")
    with pytest.raises(InvalidInput, match="OpenVINO finds no bf16 arithmetic on") as caught:
        _bf16(repository, tmp_path / "log").start()
    assert "Serve it in float32, with --config-name openvino." in caught.value.remedy
