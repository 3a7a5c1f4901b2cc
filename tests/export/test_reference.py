"""The reference model against upstream's own numbers, stage by stage."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_export.checkpoint import Checkpoint
from ctclip_export.checkpoint.names import slots
from ctclip_export.model import CTCLIP, ModelConfig

from ..conftest import DATA, Golden

TOLERANCE = 1e-5


@pytest.mark.parametrize("batch", [1, 3])
def test_every_stage_of_vision(batch: int, golden: Golden, checkpoint: Checkpoint) -> None:
    volume = torch.from_numpy(golden.expected[f"b{batch}_volume"])
    with torch.no_grad():
        stages = checkpoint.model.vision.stages(volume)
    for name, got in (
        ("patch_tokens", stages.patch_tokens),
        ("spatial_tokens", stages.spatial_tokens),
        ("temporal_tokens", stages.temporal_tokens),
        ("encoded_tokens", stages.encoded_tokens),
        ("image_latent", stages.embedding),
    ):
        expected = golden.expected[f"b{batch}_{name}"]
        assert got.shape == expected.shape, name
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=TOLERANCE, err_msg=name)
    np.testing.assert_array_equal(stages.codes.numpy(), golden.expected[f"b{batch}_codes"])


def test_norm_is_the_length_before_normalising(golden: Golden, checkpoint: Checkpoint) -> None:
    vision = checkpoint.model.vision
    with torch.no_grad():
        stages = vision.stages(torch.from_numpy(golden.expected["b3_volume"]))
        pooled = stages.encoded_tokens.mean(dim=1).flatten(1)
        raw = pooled @ vision.projection.weight.T
    torch.testing.assert_close(stages.embedding * stages.norm, raw, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("texts", ["prompt", "report"])
def test_text(texts: str, golden: Golden, checkpoint: Checkpoint) -> None:
    ids = torch.from_numpy(golden.expected[f"{texts}_input_ids"]).long()
    with torch.no_grad():
        got = checkpoint.model.text(ids, (ids != 0).long())
    expected = golden.expected[f"{texts}_text_latent"]
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=TOLERANCE)


def test_padding_changes_nothing(golden: Golden, checkpoint: Checkpoint) -> None:
    """Upstream pads every text to 512; the longest of the batch is enough."""
    ids = torch.from_numpy(golden.expected["prompt_input_ids"]).long()  # (36, 64)
    mask = (ids != 0).long()
    longest = int(mask.sum(dim=1).max())
    wide = torch.nn.functional.pad(ids, (0, 512 - ids.shape[1]))
    with torch.no_grad():
        short = checkpoint.model.text(ids[:, :longest], mask[:, :longest])
        long = checkpoint.model.text(wide, (wide != 0).long())
    torch.testing.assert_close(short, long, rtol=0, atol=1e-6)
    # The comparison must be able to fail: without the mask, padding does change the result.
    with torch.no_grad():
        unmasked = checkpoint.model.text(wide, torch.ones_like(wide))
    assert (unmasked - short).abs().max() > 1e-3


def test_scores(golden: Golden, checkpoint: Checkpoint) -> None:
    image = torch.from_numpy(golden.expected["b1_image_latent"])
    text = torch.from_numpy(golden.expected["prompt_text_latent"])
    logits, probabilities = checkpoint.model.score(image, text)
    for got, name in ((logits, "zero_shot_logits"), (probabilities, "zero_shot_probabilities")):
        np.testing.assert_allclose(
            got[0].numpy(), golden.expected[name], rtol=0, atol=TOLERANCE, err_msg=name
        )


def test_text_encoder_is_transformers_bert(golden: Golden, checkpoint: Checkpoint) -> None:
    """The same weights in the library's BertModel, on random tokens of every length."""
    from transformers import BertConfig, BertModel  # seconds, which every worker would wait for

    seed = 5
    print(f"seed {seed}")
    config = BertConfig(**json.loads((golden.text_model / "config.json").read_text()))
    bert = BertModel(config, add_pooling_layer=False).eval()
    state = torch.load(golden.checkpoint, weights_only=True)
    prefix = "text_transformer."
    bert.load_state_dict(
        {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix) and "pooler" not in name and "position_ids" not in name
        }
    )
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, (6, 40), generator=generator)
    mask = (torch.arange(40)[None] < torch.tensor([1, 2, 7, 20, 39, 40])[:, None]).long()
    with torch.no_grad():
        hidden = bert(ids, attention_mask=mask).last_hidden_state[:, 0]
        latent = hidden @ state["to_text_latent.weight"].T
        expected = torch.nn.functional.normalize(latent, dim=-1)
        got = checkpoint.model.text(ids, mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


def test_published_sizes_are_the_published_checkpoint() -> None:
    """The table of names against the list that upstream's own code printed."""
    expected = {}
    for line in (DATA / "checkpoint_keys.tsv").read_text().splitlines():
        if not line.startswith("#"):
            name, shape, dtype = line.split("\t")
            assert dtype == "float32"
            expected[name] = () if shape == "scalar" else tuple(map(int, shape.split("x")))
    assert {name: slot.shape for name, slot in slots(ModelConfig()).items()} == expected


def test_every_parameter_is_filled_from_the_file() -> None:
    with torch.device("meta"):
        model = CTCLIP(ModelConfig())
    ours = {slot.ours: slot.shape for slot in slots(ModelConfig()).values() if slot.ours}
    parameters = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ours["vision.codebook"] = ours["vision.codebook"][1:]  # the file has one more axis of 1
    assert ours == parameters


def test_findings_are_upstreams(golden: Golden) -> None:
    assert [entry.finding for entry in PUBLISHED_FINDINGS] == golden.case["pathologies"]
