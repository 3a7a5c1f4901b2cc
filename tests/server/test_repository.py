"""What is said about a repository before Triton sees it."""

from __future__ import annotations

import pytest

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_server.repository import check_repository

from .conftest import add_constant


@pytest.fixture
def repository(tmp_path):
    add_constant("add", 1.0).write(tmp_path)
    return tmp_path


def test_models_are_listed(repository):
    assert check_repository(repository) == ("add",)


def test_a_damaged_config_is_named(repository):
    (repository / "add" / "config.pbtxt").write_text("input [ {")
    with pytest.raises(Unreadable, match=r"add/config.pbtxt"):
        check_repository(repository)


def test_a_folder_that_is_no_model_is_named(repository):
    (repository / ".cache").mkdir()
    with pytest.raises(Unreadable, match=r"\.cache/config\.pbtxt: missing") as error:
        check_repository(repository)
    assert "is a model" in error.value.remedy


def test_a_python_model_without_its_file_is_refused(repository):
    """Triton would wait for its stub forever."""
    (repository / "check" / "1").mkdir(parents=True)
    (repository / "check" / "config.pbtxt").write_text('backend: "python"')
    with pytest.raises(Unreadable, match=r"'check' version 1 has no model.py"):
        check_repository(repository)


def test_only_the_versions_that_will_be_served_count(repository):
    (repository / "add" / "0").mkdir()
    check_repository(repository)
    (repository / "add" / "2").mkdir()
    with pytest.raises(Unreadable, match=r"version 2 has no model\.onnx"):
        check_repository(repository)
    config = repository / "add" / "config.pbtxt"
    config.write_text(config.read_text() + "version_policy { specific { versions: [ 1 ] } }\n")
    check_repository(repository)
    config.write_text(config.read_text().replace("versions: [ 1 ]", "versions: [ 3 ]"))
    with pytest.raises(Unreadable, match=r"version 3 has no model\.onnx"):
        check_repository(repository)


def test_a_model_without_versions_is_refused(repository):
    (repository / "add" / "1" / "model.onnx").unlink()
    (repository / "add" / "1").rmdir()
    with pytest.raises(Unreadable, match="'add' has no version folder"):
        check_repository(repository)


def test_an_ensemble_needs_its_version_folder_only(repository):
    (repository / "both" / "1").mkdir(parents=True)
    (repository / "both" / "config.pbtxt").write_text('platform: "ensemble"')
    assert check_repository(repository) == ("add", "both")


def test_models_that_will_not_be_loaded_are_not_judged(repository):
    (repository / "other").mkdir()
    assert check_repository(repository, models=("add",)) == ("add",)
    assert check_repository(repository, models=()) == ()
    with pytest.raises(InvalidInput, match="has no 'ghost'"):
        check_repository(repository, models=("ghost",))


def test_a_backend_without_drop_in_is_refused(repository):
    config = repository / "add" / "config.pbtxt"
    config.write_text(config.read_text().replace("onnxruntime", "tensorrt"))
    with pytest.raises(InvalidInput, match="'add' wants the backend tensorrt"):
        check_repository(repository)
