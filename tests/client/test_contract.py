"""The contract is data; these tests hold it to itself and to what version 1 of it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ctclip_client import Provenance, contract
from ctclip_client.contract import Ensemble, Model, Tensor

from ..conftest import DATA

ENSEMBLES = (*contract.ENSEMBLES, *contract.CLASSFINE_ENSEMBLES)
MODELS = (*contract.MODELS, *contract.CLASSFINE_MODELS)


def agree(made: Tensor, wanted: Tensor) -> bool:
    """Same type and axes, where a free axis meets anything."""
    return (
        made.dtype == wanted.dtype
        and len(made.dims) == len(wanted.dims)
        and all(
            isinstance(a, str) or isinstance(b, str) or a == b
            for a, b in zip(made.dims, wanted.dims, strict=True)
        )
    )


def batched(model: Model, tensor: Tensor) -> Tensor:
    """The tensor as a request holds it."""
    dims = ("batch", *tensor.dims) if model.max_batch_size else tensor.dims
    return Tensor(tensor.name, tensor.dtype, dims)


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda e: e.name)
def test_every_tensor_of_an_ensemble_resolves(ensemble: Ensemble) -> None:
    made = {tensor.name: tensor for tensor in ensemble.inputs}
    for step in ensemble.steps:
        for tensor in step.model.inputs:
            name = step.inputs.get(tensor.name, tensor.name)
            assert name in made, f"{step.model.name} wants {name}, which nothing makes before it"
            assert agree(made[name], batched(step.model, tensor)), f"{step.model.name}: {name}"
        assert set(step.inputs) <= {tensor.name for tensor in step.model.inputs}
        assert set(step.outputs) <= {tensor.name for tensor in step.model.outputs}
        for tensor in step.model.outputs:
            name = step.outputs.get(tensor.name, tensor.name)
            assert name not in made, f"{step.model.name} makes {name} a second time"
            made[name] = batched(step.model, tensor)
    for tensor in ensemble.outputs:
        assert agree(made[tensor.name], tensor), tensor.name


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda e: e.name)
def test_metadata_is_checked_before_anything_sees_it(ensemble: Ensemble) -> None:
    if contract.VOLUME not in ensemble.inputs:
        return
    models = [step.model for step in ensemble.steps]
    first = models.index(contract.CHECK)
    # What comes before does not compute with it.
    before = [contract.TOKENIZER, contract.TEXT_ENCODER, contract.GATE]
    assert models[:first] == (before if ensemble is contract.ZERO_SHOT else [])
    for step in ensemble.steps[first + 1 :]:
        for tensor in step.model.inputs:
            if tensor in (contract.SPACING, contract.RESCALE):
                assert step.inputs[tensor.name].startswith("CHECKED_")


def levels(ensemble: Ensemble) -> list[list[str]]:
    """Names of the steps that Triton hands out at once, in their order."""
    ready = {tensor.name for tensor in ensemble.inputs}
    waiting, found = list(ensemble.steps), []
    while waiting:
        level = [
            step
            for step in waiting
            if {step.inputs.get(t.name, t.name) for t in step.model.inputs} <= ready
        ]
        assert level, waiting
        waiting = [step for step in waiting if step not in level]
        ready |= {step.outputs.get(t.name, t.name) for step in level for t in step.model.outputs}
        found.append([step.model.name for step in level])
    return found


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda e: e.name)
def test_nothing_is_in_flight_beside_a_step_that_may_refuse(ensemble: Ensemble) -> None:
    """Triton before 26.02 may end or hang should it refuse then: see ctclip_gate."""
    *before, last = levels(ensemble)
    assert all(len(level) == 1 for level in before)
    # Nothing that a caller sends reaches these two unmade.
    assert len(last) == 1 or set(last) == {"ctclip_findings", "ctclip_relevance"}


def test_names_are_unique_and_free_of_surprises() -> None:
    names = [entry.name for entry in (*MODELS, *ENSEMBLES)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("ctclip_") and name.islower() for name in names)
    assert {step.model.name for ensemble in ENSEMBLES for step in ensemble.steps} <= set(names)


def described(entry: Model | Ensemble, tensors: tuple[Tensor, ...]) -> list[str]:
    """A line for each tensor, its batch axis (B) included, with as many classes as ClassFine has: a
    client that knows no other head reads these, and refuses another number."""
    batch = ["B"] if isinstance(entry, Model) and entry.max_batch_size else []
    known = {"C": contract.CLASS_COUNT}
    axes = {t.name: [*batch, *(known.get(str(dim), dim) for dim in t.dims)] for t in tensors}
    return [f"{t.name} {t.dtype} {','.join(map(str, axes[t.name]))}" for t in tensors]


def test_what_a_client_of_version_1_calls_is_as_it_knew_it() -> None:
    """A line of the file changes only with VERSION, or where older clients read it all the same."""
    assert contract.VERSION == 1
    now = {entry.name: entry for entry in (*MODELS, *ENSEMBLES)}
    known = json.loads((DATA / "contract_1.json").read_text(encoding="utf-8"))
    for name, (inputs, outputs) in known.items():
        # One more input would be missing in an older request; more outputs do no harm.
        assert described(now[name], now[name].inputs) == inputs, name
        assert set(outputs) <= set(described(now[name], now[name].outputs)), name


def test_published_sizes() -> None:
    sizes = contract.PUBLISHED_DIMENSIONS.sizes()
    assert contract.VOXELS.shape(sizes) == (1, 240, 480, 480)
    assert contract.CODES.shape(sizes) == (24, 24, 24)
    assert contract.VOLUME.shape(sizes) == (-1, -1, -1)
    assert contract.PATHOLOGIES.outputs[0].shape(sizes) == (1, 18, 2)


def test_published_findings_are_ct_rates() -> None:
    names = [entry.finding for entry in contract.PUBLISHED_FINDINGS]
    assert len(names) == len(set(names)) == 18
    first = contract.PUBLISHED_FINDINGS[0]
    assert first.present == "Medical material is present."
    assert first.absent == "Medical material is not present."


def test_additions_to_a_servers_record_are_read_by_this_client(repository: Path) -> None:
    """They do not raise the version, so every client of it has to put up with them."""
    path = repository / contract.CHECK.name / "1" / "provenance.json"
    record = json.loads(path.read_text(encoding="utf-8"))["release"]
    more = {
        **record,
        "checkpoint": {**record["checkpoint"], "licence": "CC"},
        "geometry": {**record["geometry"], "crop": "centre"},
        "prompts": [{**prompt, "language": "en"} for prompt in record["prompts"]],
        "added_later": {"a": 1},
    }
    known, read = (Provenance.from_json(json.dumps(content)) for content in (record, more))
    assert read.prompts == known.prompts
    assert read.geometry() == known.geometry()
    assert replace(read, prompts=(), content={}) == replace(known, prompts=(), content={})
    assert read.content["added_later"] == {"a": 1}
