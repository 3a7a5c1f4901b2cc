"""The TensorRT configs' warm-up: files that Triton itself takes, and no patient's data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import InferenceServerClient, model_config_pb2

from ctclip_client.contract import TEXT_ENCODER, VISION
from ctclip_client.release.records import read_model_record
from ctclip_export.engines.warmup import write_warmup
from ctclip_server.embedded.server import EmbeddedTriton

ENCODERS = (VISION, TEXT_ENCODER)


@pytest.fixture
def warm(copied: Callable[..., Path]) -> Path:
    repository = copied("fp32")
    write_warmup(repository, "1", read_model_record(repository / VISION.name / "1").release)
    return repository


def config_of(repository: Path, model: str, name: str = "configs/tensorrt.pbtxt") -> Any:
    text = (repository / model / name).read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def warm_up_by_default(repository: Path) -> None:
    for model in ENCODERS:
        default = config_of(repository, model.name, "config.pbtxt")
        default.model_warmup.extend(config_of(repository, model.name).model_warmup)
        text = text_format.MessageToString(default)
        (repository / model.name / "config.pbtxt").write_text(text, encoding="utf-8")


def test_triton_warms_up_with_these_files(warm: Path) -> None:
    """By the core of a real Triton: the warm-up of the TensorRT config under another engine."""
    warm_up_by_default(warm)
    with EmbeddedTriton(warm) as server:
        client = InferenceServerClient(server.grpc_url)
        try:
            for model in ENCODERS:
                # Warm-up is not counted as a request; that the model is ready says it was run.
                assert client.is_model_ready(model.name)
        finally:
            client.close()


@pytest.mark.slow
def test_triton_refuses_a_file_that_is_too_short(warm: Path) -> None:
    """So the test above does see what lies in the files."""
    warm_up_by_default(warm)
    path = warm / VISION.name / "warmup" / "VOXELS"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Exception, match="ctclip_vision"), EmbeddedTriton(warm):
        pass


def test_the_files_are_what_the_config_says(warm: Path) -> None:
    for model in ENCODERS:
        config = config_of(warm, model.name)
        assert next(iter(config.model_warmup)).batch_size == 1
        for sample in config.model_warmup:
            assert 1 <= sample.batch_size <= model.max_batch_size
            for name, value in sample.inputs.items():
                size = (warm / model.name / "warmup" / value.input_data_file).stat().st_size
                item = 4 if name == "VOXELS" else 8
                assert size == item * int(np.prod(value.dims)), name
    voxels = np.fromfile(warm / VISION.name / "warmup" / "VOXELS", np.float32)
    assert voxels.min() == -1  # air
    assert 0 < voxels.max() <= 1
    ids = np.fromfile(warm / TEXT_ENCODER.name / "warmup" / "INPUT_IDS", np.int64)
    mask = np.fromfile(warm / TEXT_ENCODER.name / "warmup" / "ATTENTION_MASK", np.int64)
    assert 3 <= mask.sum() <= len(mask)
    assert not ids[mask == 0].any()


def test_without_engines_the_files_are_not_there(exported: Callable[[str], Path]) -> None:
    assert not list(exported("fp32").glob("*/warmup"))


def test_the_tensorrt_config_is_the_default_but_for_the_engine(
    exported: Callable[[str], Path],
) -> None:
    for model in ENCODERS:
        default = config_of(exported("fp32"), model.name, "config.pbtxt")
        config = config_of(exported("fp32"), model.name)
        assert (default.backend, config.backend) == ("onnxruntime", "tensorrt")
        for field in ("name", "max_batch_size", "input", "output"):
            assert getattr(config, field) == getattr(default, field), field
        # On CPUs, which the default config is made for, scans are not joined.
        assert not config.dynamic_batching.preferred_batch_size
        assert (
            config.dynamic_batching.default_queue_policy
            == default.dynamic_batching.default_queue_policy
        )
        assert config.version_policy == default.version_policy
        (group,) = config.instance_group
        assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_GPU)
        graphs = config.optimization.cuda
        assert graphs.graphs == (model is VISION)  # nothing but the batch varies there
        assert len(graphs.graph_spec) == (model.max_batch_size if model is VISION else 0)
