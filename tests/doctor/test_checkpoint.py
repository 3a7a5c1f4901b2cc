"""A checkpoint: told from its shapes alone, or loaded as export would."""

from __future__ import annotations

import shutil

import pytest
import torch

PREFIX = "text_transformer.embeddings.position_ids"


@pytest.fixture
def state(golden):
    return torch.load(golden.checkpoint, weights_only=True)


@pytest.fixture
def save(tmp_path):
    def write(state, name="checkpoint.pt"):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def shape(golden):
    return ("--volume-shape", golden.volume_shape_flag)


def test_everything_that_shapes_tell_is_told(doctor, golden, shape):
    outcome = doctor(golden.checkpoint, *shape)
    assert (outcome.code, outcome.report["kind"]) == (0, "checkpoint")
    assert outcome.titles("NOT RUN") == {"text model", "export"}
    assert outcome.check("variant")["values"] == {"variant": "v2", "entry": "", "prefix": ""}
    case = golden.case["ctvit"]
    vision = outcome.check("sizes")["values"]["vision"]
    assert vision["width"] == case["dim"]
    assert vision["codebook_size"] == case["codebook_size"]
    assert vision["patch_shape"] == [10, 20, 20]
    text = outcome.check("sizes")["values"]["text"]
    assert text["layers"] == golden.case["text"]["num_hidden_layers"]
    assert "heads" not in text  # no shape tells
    assert outcome.check("geometry")["values"]["token_shape"] == [4, 3, 5]


def test_parameters_and_dropped_bytes_add_up(doctor, golden, shape, state):
    outcome = doctor(golden.checkpoint, *shape)
    parameters, dropped = (outcome.check(n)["values"] for n in ("parameters", "dropped"))
    assert sum(parameters["parts"].values()) == parameters["total"]
    assert sum(dropped["bytes_by_reason"].values()) == dropped["bytes"]
    assert 4 * parameters["total"] + dropped["bytes"] == sum(t.nbytes for t in state.values())


def test_with_its_text_model_it_is_loaded_as_export_does(doctor, golden, shape):
    outcome = doctor(golden.checkpoint, *shape, "--text-model", golden.text_model)
    assert (outcome.code, outcome.report["counts"]["PASS"]) == (0, 12)
    assert outcome.verdict("export") == "PASS"


def test_another_text_model_is_told_apart(doctor, golden, shape, tmp_path):
    folder = shutil.copytree(golden.text_model, tmp_path / "text")
    config = folder / "config.json"
    config.write_text(
        config.read_text().replace('"intermediate_size": 96', '"intermediate_size": 80')
    )
    outcome = doctor(golden.checkpoint, *shape, "--text-model", folder)
    assert (outcome.code, outcome.verdict("export")) == (1, "NOT RUN")
    assert "hidden 80 instead of 96" in outcome.check("text model")["detail"]
    assert doctor(golden.checkpoint, *shape, "--text-model", tmp_path / "none").code == 2


def test_the_published_geometry_does_not_fit_a_small_model(doctor, golden):
    outcome = doctor(golden.checkpoint)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"geometry"})
    assert "60x100" in outcome.check("geometry")["remedy"]


def test_classfine_is_recognised(doctor, golden, shape):
    outcome = doctor(golden.folder / "ct_lipro.pt", *shape)
    assert (outcome.code, outcome.check("variant")["values"]["variant"]) == (0, "classfine")
    assert outcome.check("parameters")["values"]["parts"]["classifier"] == 18 * 32 + 18


def test_what_was_taken_off_is_told(doctor, shape, state, save):
    with_ids = state.pop(PREFIX, None) is not None
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    outcome = doctor(save({"model": wrapped, "optim": {"state": {}}, "epoch": 3}), *shape)
    assert outcome.code == 0
    values = {"variant": "v2", "entry": '["model"]', "prefix": "module."}
    assert outcome.check("variant")["values"] == values
    for told in (
        'entry ["model"]',
        "'module.'",
        'not looked at: ["optim"] (dict), ["epoch"] (int)',
    ):
        assert told in outcome.check("variant")["detail"]
    assert outcome.check("tensors")["values"]["position_ids"] is False
    assert with_ids


def test_another_network_is_not_looked_at_further(doctor, save):
    outcome = doctor(save({"net": {"fc.weight": torch.zeros(3, 3)}, "epoch": 3}))
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"variant"})
    told = """["net"] holds 'fc.weight' (3, 3), ["epoch"] (int)"""
    assert told in outcome.check("variant")["detail"]
    assert "CT-CLIP_v2.pt" in outcome.check("variant")["remedy"]


def test_missing_strange_and_misshapen_tensors_are_named(doctor, shape, state, save):
    name = "visual_transformer.to_patch_emb.3.bias"
    state["stranger"] = torch.zeros(2)
    del state[name]
    state["visual_transformer.to_patch_emb.3.weight"] = torch.ones(3)
    values = doctor(save(state), *shape).check("tensors")["values"]
    assert values["missing"] == [name]
    assert values["unexpected"] == ["stranger"]
    assert len(values["wrong_shape"]) == 1


def test_nan_and_infinity_are_counted_by_tensor(doctor, shape, state, save):
    served, unused = "visual_transformer.to_patch_emb.3.bias", "to_text_latent_extra.weight"
    state[unused][0, 0] = float("inf")
    outcome = doctor(save(state), *shape)
    assert (outcome.code, outcome.verdict("finite")) == (0, "WARN")
    state[served][:2] = float("nan")
    outcome = doctor(save(state), *shape)
    assert (outcome.code, outcome.verdict("finite")) == (1, "FAIL")
    assert outcome.check("finite")["values"]["tensors"] == {
        served: {"nan": 2, "inf": 0},
        unused: {"nan": 0, "inf": 1},
    }


def test_declared_random_weights_are_shown(doctor, golden, shape, tmp_path):
    copy = shutil.copy(golden.checkpoint, tmp_path / "demo.pt")
    (tmp_path / "demo.pt.RANDOM_WEIGHTS").touch()
    outcome = doctor(copy, *shape)
    assert (outcome.code, outcome.report["verdict"]) == (0, "WARN")
    assert "RANDOM WEIGHTS" in outcome.check("random weights")["detail"]
    assert "RANDOM WEIGHTS" in doctor(copy, *shape, json=False).out
