"""Every config.pbtxt by Triton's own protobuf, as the official container will read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ctclip_client.contract import MODELS

from .support import ROOT


def parse(path: Path) -> model_config_pb2.ModelConfig:
    """Raises ParseError at an unknown field, a wrong type or a field given twice."""
    config = model_config_pb2.ModelConfig()
    text_format.Parse(path.read_text(encoding="utf-8"), config)
    return config


def configs(repository: Path) -> list[Path]:
    return sorted([*repository.glob("*/config.pbtxt"), *repository.glob("*/configs/*.pbtxt")])


@pytest.fixture(params=["exported", "in git"])
def some_repository(request: pytest.FixtureRequest, repository: Path) -> Path:
    return repository if request.param == "exported" else ROOT / "model_repository"


def test_every_config_has_known_fields_only(some_repository: Path) -> None:
    for path in configs(some_repository):
        config = parse(path)
        assert config.name == path.relative_to(some_repository).parts[0]
        assert config.input, path
        assert config.output, path


def test_every_step_is_a_model_of_the_repository(some_repository: Path) -> None:
    for path in configs(some_repository):
        for step in parse(path).ensemble_scheduling.step:
            model = some_repository / step.model_name
            assert (model / "config.pbtxt").is_file()
            assert (model / str(step.model_version)).is_dir()


def test_an_unknown_field_is_noticed(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    text = (repository / MODELS[0].name / "config.pbtxt").read_text(encoding="utf-8")
    path.write_text(text + "max_inflight: 3\n", encoding="utf-8")
    with pytest.raises(text_format.ParseError, match="max_inflight"):
        parse(path)
