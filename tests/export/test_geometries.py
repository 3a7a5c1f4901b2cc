"""Checkpoints of other sizes than golden ones: loaded, right, and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ctclip_bench.demo.random_checkpoint import random_model, save_in_upstream_layout
from ctclip_client.contract import PUBLISHED_FINDINGS, Geometry
from ctclip_export.checkpoint import load_checkpoint, read_text_model
from ctclip_export.graphs.run import run_onnx
from ctclip_export.model import ModelConfig, TextConfig, VisionConfig
from ctclip_export.repository.build import export_repository

from ..conftest import Golden
from .plain_vision import plain_vision

# No two sizes of a model alike, heads that do not fill the width, a single slab, cubes as patches.
SIZES = {
    "tall": (
        VisionConfig((24, 40, 16), (4, 8, 8), 24, 3, 20, 37, 1, 3, 50, 20),
        TextConfig(132, 60, 3, 5, 77, 512, 1),
    ),
    "one slab of cubes": (
        VisionConfig((3, 9, 6), (3, 3, 3), 16, 1, 7, 11, 2, 1, 1000, 64),
        TextConfig(132, 36, 1, 12, 48, 600, 3),
    ),
}


def test_the_plain_vision_is_upstreams(golden: Golden) -> None:
    state = torch.load(golden.checkpoint, weights_only=True)
    volumes = torch.from_numpy(golden.expected["b3_volume"])
    codes, embedding = plain_vision(state, volumes, (10, 20, 20))
    np.testing.assert_array_equal(codes.numpy(), golden.expected["b3_codes"].reshape(codes.shape))
    unit = torch.nn.functional.normalize(embedding, dim=-1).numpy()
    np.testing.assert_allclose(unit, golden.expected["b3_image_latent"], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_any_sizes_are_read_off_the_file_and_exported(
    name: str, golden: Golden, tmp_path: Path
) -> None:
    vision, text = SIZES[name]
    seed = 5
    print(f"seed {seed}")
    rows = torch.randn(vision.codebook_size, vision.width, generator=_seeded(seed))
    model = random_model(ModelConfig(vision, text), seed, lambda _: rows)
    save_in_upstream_layout(model, tmp_path / "file.pt", seed)
    state = torch.load(tmp_path / "file.pt", weights_only=True)
    for key, tensor in state.items():  # no gain stays 1 and no bias 0
        if tensor.is_floating_point() and tensor.ndim:
            state[key] = tensor + 0.05 * torch.randn(tensor.shape, generator=_seeded(len(key)))
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "file.pt")
    text_model = read_text_model(_text_folder(golden, text, tmp_path / "text_model"))
    geometry = Geometry(vision.volume_shape, (2.0, 1.1, 0.9))

    checkpoint = load_checkpoint(tmp_path / "file.pt", text_model, geometry)
    assert checkpoint.model.config == ModelConfig(vision, text)
    out = tmp_path / "out"
    export_repository(checkpoint, text_model, geometry, PUBLISHED_FINDINGS[:2], out)

    volumes = torch.rand(2, 1, *vision.volume_shape, generator=_seeded(seed)) * 2 - 1
    codes, embedding = plain_vision(state, volumes, vision.patch_shape)
    got = run_onnx(out / "ctclip_vision/1/model.onnx", {"VOXELS": volumes.numpy()})
    np.testing.assert_array_equal(got["CODES"], codes.numpy())
    unit = torch.nn.functional.normalize(embedding, dim=-1).numpy()
    np.testing.assert_allclose(got["IMAGE_EMBEDDING"], unit, rtol=0, atol=1e-5)
    lengths = embedding.norm(dim=-1, keepdim=True).numpy()
    np.testing.assert_allclose(got["IMAGE_NORM"], lengths, rtol=1e-5, atol=0)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _text_folder(golden: Golden, config: TextConfig, folder: Path) -> Path:
    shutil.copytree(golden.text_model, folder)
    content = json.loads((folder / "config.json").read_text()) | {
        "model_type": "cxr-bert",
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.segment_types,
    }
    (folder / "config.json").write_text(json.dumps(content))
    return folder
