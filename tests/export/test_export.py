"""`ctclip export` as a person runs it: what it writes, and that failures leave everything alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ctclip_client.cli.program import main
from ctclip_client.contract import (
    ENSEMBLES,
    MODELS,
    PUBLISHED_DIMENSIONS,
    PUBLISHED_FINDINGS,
    Geometry,
)
from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_export.checkpoint import Checkpoint, TextModel, load_checkpoint
from ctclip_export.graphs.versions import IR_VERSION, OPSET
from ctclip_export.model import CTViT, VisionStages
from ctclip_export.parity.check_fp32 import (
    check_preprocess,
    check_scores,
    check_text,
    check_vision,
)
from ctclip_export.parity.compare import ParityError
from ctclip_export.repository import build, make
from ctclip_export.repository.configs import ensemble_config, model_config
from ctclip_export.repository.python_models import copy_sources
from ctclip_export.repository.variants import variant_configs

from ..conftest import Golden

ROOT = Path(__file__).parents[2]


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def arguments(golden: Golden, tmp_path: Path) -> Callable[..., list[str]]:
    def arguments(**changes: object) -> list[str]:
        values: dict[str, object] = {
            "checkpoint": golden.checkpoint,
            "text-model": golden.text_model,
            "volume-shape": golden.volume_shape_flag,
            "out": tmp_path / "out",
        }
        values |= {name.replace("_", "-"): value for name, value in changes.items()}
        flags = [(f"--{name}", str(value)) for name, value in values.items()]
        return ["export", *(part for flag in flags for part in flag)]

    return arguments


def test_what_an_export_writes(repository: Path, golden: Golden) -> None:
    names = {model.name for model in MODELS} | {ensemble.name for ensemble in ENSEMBLES}
    assert {path.name for path in repository.iterdir()} == names
    releases = set()
    for model in MODELS:
        folder = repository / model.name / "1"
        record = json.loads((folder / "provenance.json").read_text())
        file = folder / record["file"]
        assert record["file_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert torch.__version__.startswith(record["tools"]["torch"])  # without "+cu130" there
        releases.add(json.dumps(record["release"], sort_keys=True))
        if model.backend == "onnxruntime":
            assert {entry["model"] for entry in record["parity"]} == {model.name}
            proto = onnx.load(file)
            assert (proto.ir_version, proto.opset_import[0].version) == (IR_VERSION, OPSET)
            assert [value.name for value in proto.graph.input] == [t.name for t in model.inputs]
            assert [value.name for value in proto.graph.output] == [t.name for t in model.outputs]
        further = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in model.further_files
        }
        assert record.get("further_files", {}) == further
    assert len(releases) == 1
    release = json.loads(releases.pop())
    checkpoint = hashlib.sha256(golden.checkpoint.read_bytes()).hexdigest()
    assert release["checkpoint"]["sha256"] == checkpoint
    assert release["findings"] == golden.case["pathologies"]
    assert release["geometry"]["volume_shape"] == golden.case["volume_shape"]
    assert str(golden.folder) not in json.dumps(release)


def test_configs_in_git_are_what_the_exporter_writes(tmp_path: Path) -> None:
    published = ROOT / "model_repository"
    for model in MODELS:
        config = (published / model.name / "config.pbtxt").read_text()
        assert config == model_config(model, PUBLISHED_DIMENSIONS), model.name
        variants = {
            path.stem: path.read_text() for path in (published / model.name).glob("configs/*.pbtxt")
        }
        assert variants == variant_configs(model, PUBLISHED_DIMENSIONS), model.name
        assert (published / model.name / "1" / ".gitkeep").is_file()
        copy_sources(model.name, tmp_path)
        for source in tmp_path.iterdir():
            assert source.read_text() == (published / model.name / "1" / source.name).read_text()
            source.unlink()
    for ensemble in ENSEMBLES:
        config = (published / ensemble.name / "config.pbtxt").read_text()
        assert config == ensemble_config(ensemble, PUBLISHED_DIMENSIONS), ensemble.name
        assert (published / ensemble.name / "1" / ".gitkeep").is_file()


@pytest.mark.slow
def test_exports_of_the_same_things_are_the_same_release(
    repository: Path,
    checkpoint: Checkpoint,
    text_model: TextModel,
    golden: Golden,
    tmp_path: Path,
) -> None:
    again = build.export_repository(
        checkpoint, text_model, golden.geometry, PUBLISHED_FINDINGS, tmp_path / "again"
    )
    record = repository / "ctclip_check" / "1" / "provenance.json"
    assert json.loads(record.read_text())["release"] == again.release


@pytest.mark.slow
def test_export_on_the_command_line(
    arguments: Callable[..., list[str]],
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, volumes = CTViT.stages, []

    def counted(self: CTViT, volume: torch.Tensor) -> VisionStages:
        if type(volume) is torch.Tensor:  # no tracer's stand-in
            volumes.append(volume)
        return run(self, volume)

    monkeypatch.setattr(CTViT, "stages", counted)
    bank = [{"finding": "Stone", "present": "A stone.", "absent": "No stone."}]
    (tmp_path / "bank.json").write_text(json.dumps(bank))
    assert main(arguments(prompts=tmp_path / "bank.json")) == 0
    assert len(volumes) == 1  # seconds each at the published geometry; the self-check shares it
    printed = capsys.readouterr()
    assert "ctclip_vision" in printed.out
    assert "ctclip serve --repository" in printed.out
    record = json.loads((tmp_path / "out/ctclip_check/1/provenance.json").read_text())
    assert record["release"]["prompts"] == bank
    of_all_prompts = json.loads((repository / "ctclip_check/1/provenance.json").read_text())
    assert record["release"]["release"] != of_all_prompts["release"]["release"]
    assert "dims: [-1, 1, 2]" in (tmp_path / "out/ctclip_findings/config.pbtxt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank.json", "out"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "/nowhere/CT-CLIP_v2.pt"}, "no such file"),
        ({"text_model": "/nowhere"}, "config.json: No such file"),
        ({"volume_shape": "240x480x480"}, "--volume-shape"),
        ({"prompts": "/nowhere.json"}, "/nowhere.json"),
        ({"out": __file__}, "is a file"),
        ({"out": Path(__file__).parent}, "not a model"),
        ({"out": "/proc/out"}, "cannot write"),
    ],
)
def test_refusals(
    changes: dict[str, object],
    message: str,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments(**changes)) == 2
    printed = capsys.readouterr()
    *stages, cause, _remedy = printed.err.splitlines()  # nothing but these and finished stages
    assert all(re.fullmatch(r".+: \d+\.\d s", line) for line in stages)
    assert cause.startswith("error: ")
    assert message in cause
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("volume_shape", "40x60", ""),
        ("target_spacing", "1,0,1", ""),
        *(
            ("target_spacing", value, "more than 0.05 and less than 20 mm")
            for value in ("1e-3,1,1", "1,1,20", "1,0.05,1", "nan,1,1", "1,1,inf")
        ),
    ],
)
def test_flags_that_mean_nothing(
    name: str,
    value: str,
    expected: str,
    arguments: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments(**{name: value}))
    assert caught.value.code == 2
    cause, remedy = capsys.readouterr().err.splitlines()
    assert f"--{name.replace('_', '-')}" in cause
    assert value in cause
    assert expected in cause
    assert "ctclip export --help" in remedy


def test_a_failed_check_leaves_the_old_repository_untouched(
    copied: Path,
    checkpoint: Checkpoint,
    text_model: TextModel,
    golden: Golden,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = snapshot(copied)
    trace = make.trace_text

    def faulty(model: Any, precision: str) -> onnx.ModelProto:
        onnx.save(trace(model, precision), tmp_path / "traced.onnx")
        spoilt = spoil(
            tmp_path / "traced.onnx", "encoder.embeddings.norm.weight", 1.05, tmp_path / "x"
        )
        proto = onnx.load(spoilt)
        for file in (tmp_path / "traced.onnx", spoilt):
            file.unlink()
        return proto

    monkeypatch.setattr(make, "trace_text", faulty)
    with pytest.raises(ParityError, match="ctclip_text: TEXT_EMBEDDING"):
        build.export_repository(checkpoint, text_model, golden.geometry, PUBLISHED_FINDINGS, copied)
    assert snapshot(copied) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository"]


@pytest.mark.slow
def test_a_terminated_export_leaves_nothing(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = [str(Path(sys.executable).with_name("ctclip")), *arguments()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Preprocessing"):
                break
        assert list(tmp_path.glob(".out.staging-*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    assert list(tmp_path.iterdir()) == []


def spoil(source: Path, initializer: str, factor: float, target: Path) -> Path:
    """A copy of a graph with one of its weights multiplied."""
    proto = onnx.load(source)
    weight = next(i for i in proto.graph.initializer if i.name == initializer)
    values = onnx.numpy_helper.to_array(weight)
    scaled = (values * factor).astype(values.dtype)
    weight.CopyFrom(onnx.numpy_helper.from_array(scaled, weight.name))
    onnx.save(proto, target)
    return target


@pytest.mark.parametrize(
    ("name", "initializer", "factor", "message"),
    [
        ("ctclip_preprocess", "half", 1.1, "VOXELS"),
        ("ctclip_preprocess/model_gpu.onnx", "half", 1.1, "VOXELS"),
        ("ctclip_vision", "encoder.token_norm.weight", -1, ".* codes differ"),
        ("ctclip_vision", "encoder.projection.weight", 1.01, "IMAGE_NORM"),
        ("ctclip_text", "encoder.embeddings.norm.weight", 1.05, "TEXT_EMBEDDING"),
        ("ctclip_score", "scale", 1.001, "LOGITS"),
        ("ctclip_findings", "scale", 1.001, "LOGITS"),
    ],
)
def test_a_fault_in_any_graph_is_found(
    name: str,
    initializer: str,
    factor: float,
    message: str,
    repository: Path,
    checkpoint: Checkpoint,
    golden: Golden,
    tmp_path: Path,
) -> None:
    """A check that passes everything would be worse than none."""
    files = {m.name: repository / m.name / "1" / "model.onnx" for m in MODELS}
    gpu_graph = repository / "ctclip_preprocess" / "1" / "model_gpu.onnx"
    if quantity := name.partition("/")[2]:
        name, message = "ctclip_preprocess", f"{message} of {quantity}"
        gpu_graph = spoil(gpu_graph, initializer, factor, tmp_path / "model_gpu.onnx")
    else:
        files[name] = spoil(files[name], initializer, factor, tmp_path / "model.onnx")
    model, expected = checkpoint.model, golden.expected
    ids = expected["prompt_input_ids"].astype(np.int64)
    volume = torch.from_numpy(expected["b1_volume"])

    def check() -> None:
        if name == "ctclip_preprocess":
            check_preprocess(files[name], gpu_graph, golden.geometry)
        elif name == "ctclip_vision":
            with torch.no_grad():
                stages = model.vision.stages(volume)
            check_vision(files[name], model.vision, volume, stages)
        elif name == "ctclip_text":
            check_text(files[name], model, ids, (ids != 0).astype(np.int64))
        else:
            image, texts = expected["b1_image_latent"], expected["prompt_text_latent"]
            check_scores(files["ctclip_score"], files["ctclip_findings"], model, image, texts)

    with pytest.raises(ParityError, match=f"{name}: {message}"):
        check()


def test_a_vocabulary_that_was_swapped_is_refused_at_load(copied: Path) -> None:
    from ctclip_server.embedded.server import EmbeddedTriton

    vocabulary = copied / "ctclip_tokenizer" / "1" / "vocab.txt"
    lines = vocabulary.read_text().split("\n")
    lines[60], lines[61] = lines[61], lines[60]
    vocabulary.write_text("\n".join(lines))
    with pytest.raises(CTClipError, match=r"ctclip_tokenizer.*vocab\.txt has SHA-256"):
        EmbeddedTriton(copied).start()


def test_a_geometry_of_its_own(text_model: TextModel, golden: Golden) -> None:
    """Height and width are not in the checkpoint; a wrong split of the same area is not noticed by
    shapes, so the flag decides: 60 x 100 and 100 x 60 both fit, and differ.
    """
    turned = load_checkpoint(golden.checkpoint, text_model, Geometry((40, 100, 60)))
    assert turned.model.config.vision.token_shape == (4, 5, 3)
    with pytest.raises(InvalidInput):
        load_checkpoint(golden.checkpoint, text_model, Geometry((40, 100, 100)))
    assert os.fspath(turned.path) == os.fspath(golden.checkpoint)
