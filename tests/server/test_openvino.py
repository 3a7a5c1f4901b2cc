"""The drop-in openvino backend serving the golden checkpoint: float32 in force, bf16 by choice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch

from ctclip_client import Client, Volume
from ctclip_export.checkpoint import Checkpoint
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server import EmbeddedTriton

from ..conftest import Golden
from .conftest import Caller

TIE_MARGIN = 2e-6
"""As in the exporter's parity checks: closer than float32 can tell."""


@dataclass
class Served:
    url: str
    log: str
    ask: Caller


@pytest.fixture(scope="module")
def served(
    repository: Path,
    caller: Callable[[EmbeddedTriton], Caller],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Served]]:
    servers: dict[str, EmbeddedTriton] = {}

    def serve(config_name: str) -> Served:
        if config_name not in servers:
            log = tmp_path_factory.mktemp("log") / "triton.log"
            servers[config_name] = EmbeddedTriton(repository, config_name=config_name, log=log)
            servers[config_name].start()
        triton = servers[config_name]
        assert triton.log is not None
        return Served(triton.grpc_url, triton.log.read_text(), caller(triton))

    yield serve
    for triton in servers.values():
        triton.stop()


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


def test_float32_is_in_force_and_only_two_models_change_engine(served):
    log = served("openvino").log
    assert _precisions(log) == {"ctclip_vision": "f32", "ctclip_text": "f32"}
    assert "ignores" not in log


def test_images_equal_the_golden_data(served, golden, checkpoint):
    volumes = _volumes(golden)
    result = served("openvino").ask.client.infer(
        "ctclip_vision", served("openvino").ask.inputs(VOXELS=volumes)
    )
    different = result.as_numpy("CODES") != golden.expected["b3_codes"]
    assert np.all(_margins(checkpoint, volumes)[different] < TIE_MARGIN)
    expected = _unit(golden.expected["b3_image_latent"])
    sound = ~different.any(axis=(1, 2, 3))
    assert sound.any()
    got = result.as_numpy("IMAGE_EMBEDDING")
    assert np.abs(got - expected)[sound].max() < 1e-5


def test_texts_of_every_length_equal_the_golden_data(served, golden):
    """One compiled model takes them all: the reports have 512 tokens, the prompts 64."""
    ask = served("openvino").ask
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


def test_a_scan_through_the_client_gets_the_default_engines_answer(served, server, golden):
    scan = chest_phantom(golden.geometry)
    volume = Volume.from_array(scan.voxels, scan.spacing_mm, scan.rescale)
    prompts = [("Nodule is present.", "Nodule is not present.")]
    answers = []
    for url in (server.grpc_url, served("openvino").url):
        with Client(url) as client:
            answers.append((client.pathologies(volume), client.zero_shot(volume, prompts)))
    for one, other in zip(*answers, strict=True):
        assert other.provenance == one.provenance
        np.testing.assert_allclose(other.image_embedding, one.image_embedding, rtol=0, atol=1e-5)
        np.testing.assert_allclose(other.logits, one.logits, rtol=0, atol=1e-4)


def test_left_to_itself_openvino_takes_bf16_where_the_cpu_has_it(repository, golden):
    """Why float32 is pinned: on such a CPU the same file gives other answers."""
    core = ov.Core()
    path = repository / "ctclip_vision" / "1" / "model.onnx"
    unpinned = core.compile_model(core.read_model(path), "CPU")
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    found = unpinned.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert found == ("bf16" if has_bf16 else "f32")
    got = unpinned(_volumes(golden))[unpinned.output("IMAGE_EMBEDDING")]
    error = np.abs(got - _unit(golden.expected["b3_image_latent"])).max()
    assert (error > 1e-4) == has_bf16


def test_bf16_by_choice_is_in_force_and_less_exact(needs_bfloat16, served, golden):
    with_bf16 = served("openvino-bf16")
    assert _precisions(with_bf16.log) == {"ctclip_vision": "bf16", "ctclip_text": "bf16"}
    ids = golden.expected["prompt_input_ids"].astype(np.int64)
    mask = (ids != 0).astype(np.int64)
    got = with_bf16.ask("ctclip_text", "TEXT_EMBEDDING", INPUT_IDS=ids, ATTENTION_MASK=mask)
    expected = _unit(golden.expected["prompt_text_latent"])
    assert np.abs(got - expected).max() > 1e-4
    assert (got * expected).sum(axis=-1).min() > 0.99


def test_bf16_on_a_cpu_without_it_is_refused_in_words(repository, serve, monkeypatch):
    """OpenVINO itself would compute in float32, or imitate bf16."""
    monkeypatch.setenv("OV_CPU_MAX_ISA", "AVX512_CORE_VNNI")
    process = serve("--repository", repository, "--config-name", "openvino-bf16")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert "OpenVINO finds no bf16 arithmetic on this CPU" in err
    assert "Serve it in float32, with --config-name openvino." in err
    assert "Traceback" not in err
