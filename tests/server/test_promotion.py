"""`ctclip promote` and `rollback` of a whole export, while callers ask without pause."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
import torch

from ctclip_client import Volume
from ctclip_client.cli.program import main
from ctclip_client.contract import CHECK, PUBLISHED_FINDINGS, PYTHON_MODELS
from ctclip_client.release.records import read_model_record
from ctclip_export.checkpoint import TextModel, load_checkpoint
from ctclip_export.repository.build import export_repository
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server import EmbeddedTriton

from ..conftest import Golden
from .releases import Load, Stubs, configs, copied, full, known_answers, loaded


@pytest.fixture(scope="module")
def second(golden: Golden, text_model: TextModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint with other weights behind the image and another temperature."""
    folder = tmp_path_factory.mktemp("second")
    state = torch.load(golden.checkpoint, map_location="cpu", weights_only=True)
    weight = state["to_visual_latent.weight"]
    state["to_visual_latent.weight"] = weight * torch.linspace(0.5, 1.5, weight.shape[1])
    state["temperature"] = state["temperature"] + 0.7
    torch.save(state, folder / "other.pt")
    checkpoint = load_checkpoint(folder / "other.pt", text_model, golden.geometry)
    out = folder / "model_repository"
    export_repository(checkpoint, text_model, golden.geometry, PUBLISHED_FINDINGS, out)
    return out


def test_no_request_fails_and_no_answer_mixes_releases(
    repository: Path,
    second: Path,
    server: EmbeddedTriton,
    golden: Golden,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scan = chest_phantom(golden.geometry)
    volume = Volume.from_array(scan.voxels, scan.spacing_mm, scan.rescale)
    old, new = (
        read_model_record(each / CHECK.name / "1").release.name for each in (repository, second)
    )
    known = known_answers(server.grpc_url, volume)
    live = copied(repository, tmp_path / "live")
    before = configs(live)
    with EmbeddedTriton(live, model_control="explicit") as triton:
        assert triton.process_id is not None
        command = ["--repository", str(live), "--url", triton.grpc_url]
        with Load(partial(full, triton.grpc_url, volume)) as load:
            with Stubs(triton.process_id) as stubs:
                load.more(20)
                assert main(["promote", *command, "--from", str(second)]) == 0
            promoted = time.monotonic()
            load.more(20)
            assert set(load.releases(since=promoted)) == {new}
            assert set.union(*loaded(triton).values()) == {"2"}
            known |= known_answers(triton.grpc_url, volume)
            assert main(["rollback", *command]) == 0
            rolled_back = time.monotonic()
            load.more(20)
    assert load.failures == []
    assert set(load.releases(since=rolled_back)) == {old}
    assert configs(live) == before
    assert len(set(known.values())) == 6
    load.check(known)
    # Twice the memory, as the command says. (Python models write their byte code into the version
    # folder when they start, and Triton takes the new date for a new file.)
    python_models = {model.name for model in PYTHON_MODELS}
    assert {stubs.most[name] for name in set(stubs.most) - python_models} == {2}
    said = capsys.readouterr()
    assert f"serves version 2 (release {new})" in said.out
    assert f"serves version 1 (release {old})" in said.out
    assert "twice the memory" in said.err
    assert "self-check passed" in said.err


def test_a_server_without_model_control_is_left_alone(
    repository: Path, server: EmbeddedTriton, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = copied(repository, tmp_path / "live")
    before = configs(live)
    assert main(["promote", "--repository", str(live), "--url", server.grpc_url]) == 4
    assert "ctclip serve --model-control explicit" in capsys.readouterr().err
    assert configs(live) == before
