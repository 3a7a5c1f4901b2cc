"""Records of a repository are read with care: a damaged one names its field."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ctclip_client.contract import Finding
from ctclip_client.errors import Unreadable
from ctclip_client.release.engines import EngineRecord, read_engine_record
from ctclip_client.release.members import pinned_version_by_text
from ctclip_client.release.records import read_model_record

from ..tiny_release import result, write_record

ENGINE = EngineRecord(
    "a" * 64, "11.2.0", "A100", "8.0", {"X": [[1, 2], [2, 2], [4, 2]]}, "fp16", "b" * 64, 3,
    {"weights_bytes": 5},
)  # fmt: skip


def edited(path: Path, *keys: str, to: Any) -> None:
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(content))


def test_a_record_is_read_as_what_it_is(tmp_path: Path) -> None:
    write_record(tmp_path)
    record = read_model_record(tmp_path)
    assert record.release.geometry.volume_shape == (8, 8, 8)
    assert record.release.geometry.target_spacing_mm == (1.5, 1, 1)
    assert record.release.geometry.token_shape == (1, 1, 1)
    assert record.release.prompts == (Finding("A", "a", "b"),)
    assert record.release.content["precision"] == record.release.precision == "fp32"
    assert record.parity_failure == ""


@pytest.mark.parametrize(
    ("keys", "to", "wrong"),
    [
        (("file",), "../model.onnx", "file: got ../model.onnx, expected the name of a file"),
        (("tools",), None, "tools: got null, expected an object"),
        (("release", "precision"), 16, "release.precision: got 16, expected text"),
        (("release", "checkpoint"), {}, "release.checkpoint.name: it is missing"),
        (("release", "geometry"), None, "release.geometry: got null, expected an object"),
        (
            ("release", "geometry", "volume_shape"), [1, 2],
            "release.geometry.volume_shape: got [1, 2], expected a list of 3",
        ),
        (
            ("release", "geometry", "target_spacing_mm"), ["a", 1, 1],
            'release.geometry.target_spacing_mm[0]: got "a", expected a finite number',
        ),
        (("release", "prompts"), [], "release.prompts: got [], expected a pair of sentences"),
        (
            ("release", "prompts"), [{"finding": "A", "present": "a"}],
            "release.prompts[0].absent: it is missing",
        ),
        (("parity",), "none", 'parity: got "none", expected a list'),
        (("parity",), [{}], "parity[0].model: it is missing"),
        (
            ("parity",), [result(measured=float("nan"))],
            "parity[0].measured: got NaN, expected a finite number",
        ),
        (("parity",), [result(measured="0")], 'measured: got "0", expected a finite number'),
    ],
)  # fmt: skip
def test_a_damaged_record_names_its_field(
    keys: tuple[str, ...], to: Any, wrong: str, tmp_path: Path
) -> None:
    write_record(tmp_path)
    path = tmp_path / "provenance.json"
    edited(path, *keys, to=to)
    with pytest.raises(Unreadable) as caught:
        read_model_record(tmp_path)
    assert f"{path} is damaged: " in caught.value.cause
    assert wrong in caught.value.cause
    assert "ctclip export" in caught.value.remedy


@pytest.mark.parametrize(
    ("parity", "failure"),
    [
        ([], "it was never compared"),
        ([result(), result(measured=1e-3)], "Y: 1.0e-03, allowed 1.0e-04"),
        # Element by element: the largest difference alone says nothing of a relative bound.
        ([result(measured=1e-3, relative=1e-2)], ""),
    ],
)
def test_results_of_the_export_may_keep_a_model_out(
    parity: list[Any], failure: str, tmp_path: Path
) -> None:
    write_record(tmp_path, parity=parity)
    said = read_model_record(tmp_path).parity_failure
    assert bool(said) == bool(failure)
    assert failure in said


def test_an_engines_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    ENGINE.write(tmp_path)
    assert read_engine_record(tmp_path) == ENGINE


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ([], "got [], expected an object"),
        ({"plan_sha256": None}, "plan_sha256: got null, expected text"),
        ({"plan_bytes": "3"}, 'plan_bytes: got "3", expected a whole number'),
        ({"layers": None}, "layers: got null, expected an object"),
        ({"layers": {"weights_bytes": "5"}}, 'layers.weights_bytes: got "5", expected a whole'),
        ({"profile": {"X": [1]}}, "profile.X[0]: got 1, expected a list"),
    ],
)
def test_a_damaged_engine_record_names_its_field(content: Any, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(asdict(ENGINE) | content if isinstance(content, dict) else content))
    with pytest.raises(Unreadable) as caught:
        read_engine_record(tmp_path)
    assert f"{path} is damaged: {wrong}" in caught.value.cause
    assert "ctclip build-engines" in caught.value.remedy


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "engine.json").mkdir()
    with pytest.raises(OSError, match="irectory"):
        ENGINE.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]


def test_an_ensemble_of_somebody_elses_that_pins_nothing_is_left_alone(tmp_path: Path) -> None:
    for name, version in (("ctclip_pathologies", 2), ("another", -1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(f"model_version: {version}\n")
    assert pinned_version_by_text(tmp_path) == 2
