"""The rung inside a real Triton answers for the release under test, or fails by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from ctclip_bench.parity import steps as rungs
from ctclip_bench.parity.process import run_rung
from ctclip_bench.parity.steps import Job
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.transport.connection import Connection
from ctclip_export.samples.scans import Scan
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden


def name_of(repository: Path) -> str:
    record = json.loads((repository / "ctclip_check" / "1" / "provenance.json").read_text())
    return str(record["release"]["release"])


@pytest.fixture
def job(repository: Path, golden: Golden, phantoms: Path) -> Job:
    scans = (Scan(phantoms / "ct0.nii.gz"),)
    return Job(
        repository, "1", name_of(repository), golden.geometry, "fp32", PUBLISHED_FINDINGS, scans,
        None, None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two_releases(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedTriton]:
    """In the middle of a promotion: version 2, of other weights, is loaded, nobody serves it."""
    own = Path(shutil.copytree(repository, tmp_path_factory.mktemp("two") / "repository"))
    for config in own.rglob("*.pbtxt"):
        if config.parent.joinpath("1", "provenance.json").is_file():
            config.write_text(re.sub(r"versions: \[1\]", "versions: [1, 2]", config.read_text()))
            shutil.copytree(config.parent / "1", config.parent / "2")
    for path in own.glob("*/2/provenance.json"):
        record = json.loads(path.read_text())
        record["release"]["release"] = "the coming one"
        path.write_text(json.dumps(record))
    for model in ("ctclip_findings", "ctclip_text"):
        graph = own / model / "2" / "model.onnx"
        proto = onnx.load(graph)
        for tensor in proto.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim == 2:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), tensor.name))
        onnx.save(proto, graph)
    with EmbeddedTriton(own) as server:
        yield server


def test_a_server_of_another_release_fails_the_rung(
    job: Job, server: EmbeddedTriton, tmp_path: Path
) -> None:
    other = replace(job, release="0123456789abcdef", connection=Connection(server.grpc_url))
    outcome = run_rung(rungs.served, other, tmp_path / "rung")
    assert outcome.answers == ()
    assert f"answers for release {job.release}" in outcome.failure
    assert "expected 0123456789abcdef" in outcome.failure


def test_every_model_of_the_release_under_test_is_asked(
    job: Job, server: EmbeddedTriton, two_releases: EmbeddedTriton, tmp_path: Path
) -> None:
    (alone,) = run_rung(
        rungs.served, replace(job, connection=Connection(server.grpc_url)), tmp_path / "a"
    ).answers
    beside = replace(job, connection=Connection(two_releases.grpc_url))
    (answer,) = run_rung(rungs.served, beside, tmp_path / "b").answers
    for name in ("logits", "text_embedding"):
        np.testing.assert_allclose(answer[name], alone[name], rtol=0, atol=1e-5)
    coming = replace(beside, release="the coming one")
    (other,) = run_rung(rungs.served, coming, tmp_path / "c").answers
    for name in ("logits", "text_embedding"):
        assert np.abs(other[name] - alone[name]).max() > 1e-3, name


def test_a_server_of_neither_release_names_all_that_it_has(
    job: Job, two_releases: EmbeddedTriton, tmp_path: Path
) -> None:
    neither = replace(job, release="0123456789abcdef", connection=Connection(two_releases.grpc_url))
    outcome = run_rung(rungs.served, neither, tmp_path / "rung")
    assert f"{job.release}, the coming one, expected 0123456789abcdef" in outcome.failure


def test_a_server_without_the_models_fails_in_words(job: Job, tmp_path: Path) -> None:
    outcome = run_rung(
        rungs.served, replace(job, connection=Connection("127.0.0.1:9")), tmp_path / "rung"
    )
    assert "127.0.0.1:9" in outcome.failure
    assert "Exception" not in outcome.failure
