"""Running servers, all of them real: a whole one, one half loaded, one that mixes releases."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import onnx
import pytest

from ctclip_client.contract import ENSEMBLES, MODELS
from ctclip_client.doctor.health_check import Answers, agreement_checks
from ctclip_client.release.self_check import FILE, read_self_check
from ctclip_export.graphs.score import findings_graph
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import edit_self_check
from .conftest import edit_record

TLS_FOLDER = Path(__file__).parents[1] / "client" / "tls"


def test_a_whole_server_passes(doctor, server, repository):
    outcome = doctor(server.grpc_url, "--repository", repository)
    assert (outcome.code, outcome.report["kind"]) == (0, "server")
    titles = outcome.titles("PASS")
    for model in (*MODELS, *ENSEMBLES):
        assert {f"model {model.name}", f"config {model.name}"} <= titles
        assert f"latency {model.name}/1" in titles
    for ensemble in ENSEMBLES:
        assert f"canary {ensemble.name}" in titles
    assert titles >= {
        "live", "ready", "version", "same image", "same scores", "relevance", "refusal",
        "release", "contract", "provenance", "transport", "pins", "self-check",
    }  # fmt: skip
    assert not outcome.titles("FAIL") | outcome.titles("NOT RUN") | outcome.titles("WARN")
    values = outcome.check("self-check")["values"]
    assert (values["precision"], values["backend"]) == ("fp32", "onnxruntime")
    assert values["cosine"] > 0.9999
    assert values["largest_probability_change"] < 1e-3


def test_answers_are_told_as_numbers(doctor, server, golden):
    outcome = doctor(f"grpc://{server.grpc_url}")
    shapes = outcome.check("canary", "ctclip_explain")["values"]["shapes"]
    assert shapes["RELEVANCE"] == [1, 18, 4, 3, 5]
    latency = outcome.check("latency", "ctclip_vision/1")["values"]
    assert latency["requests"] >= 4
    assert latency["total_ms"] >= latency["infer_ms"] > 0
    provenance = outcome.check("provenance")["values"]
    assert provenance["checkpoint"] == golden.checkpoint.name
    assert provenance["random_weights"] is False
    assert "RANDOM" not in outcome.out
    # Without the repository there is nothing to compare with.
    assert outcome.code == 0
    assert outcome.titles("NOT RUN") == {"self-check"}
    assert "--repository DIR" in outcome.check("self-check")["remedy"]


def test_a_server_that_computes_something_else_fails(doctor, server, copied):
    path = copied / "ctclip_check" / "1" / FILE
    edit_self_check(copied, image_embedding=-read_self_check(path).image_embedding)
    outcome = doctor(server.grpc_url, "--repository", copied)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"self-check"})
    assert "cosine of the embedding -1.0" in outcome.check("self-check")["detail"]


def test_a_server_of_another_release_fails(doctor, server, copied):
    record = copied / "ctclip_check" / "1" / "provenance.json"
    edit_record(record, lambda r: r["release"].update(release="another"))
    outcome = doctor(server.grpc_url, "--repository", copied)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"self-check"})
    assert "the repository has another" in outcome.check("self-check")["detail"]


def test_a_repository_without_self_check_is_a_warning(doctor, server, copied):
    (copied / "ctclip_check" / "1" / FILE).unlink()
    outcome = doctor(server.grpc_url, "--repository", copied)
    assert (outcome.code, outcome.titles("WARN")) == (0, {"self-check"})


def test_a_damaged_self_check_says_nothing_of_the_server(doctor, server, copied):
    (copied / "ctclip_check" / "1" / FILE).write_bytes(b"PK")
    outcome = doctor(server.grpc_url, "--repository", copied)
    assert (outcome.code, outcome.out) == (2, "")
    assert FILE in outcome.err


def test_the_repository_to_compare_with_has_to_be_one(doctor, server, tmp_path, repository):
    outcome = doctor(server.grpc_url, "--repository", tmp_path / "nowhere")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--repository: " in outcome.err
    outcome = doctor(server.grpc_url, "--repository", tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert "it is no repository of ctclip export" in outcome.err
    outcome = doctor(repository, "--repository", repository)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--repository is for a server" in outcome.err


@pytest.fixture(scope="module")
def half(repository, tmp_path_factory):
    """A server without two of our models and with a stranger, and few of the others are loaded."""
    folder = shutil.copytree(repository, tmp_path_factory.mktemp("half") / "repository")
    for name in ("ctclip_explain", "ctclip_relevance"):
        shutil.rmtree(folder / name)
    shutil.copytree(folder / "ctclip_score", folder / "other_score")
    config = folder / "other_score/config.pbtxt"
    config.write_text(config.read_text().replace("ctclip_score", "other_score"))
    models = ["ctclip_image_embedding", "other_score"]
    with EmbeddedTriton(folder, model_control="explicit", load_models=models) as triton:
        yield triton


def test_models_that_are_missing_or_not_loaded_are_named(doctor, half):
    outcome = doctor(half.grpc_url)
    assert outcome.code == 1
    failed = outcome.titles("FAIL")
    assert {"model ctclip_pathologies", "model ctclip_text", "model ctclip_explain"} <= failed
    assert "not ready" in outcome.check("model", "ctclip_text")["detail"]
    assert "no model of this name" in outcome.check("model", "ctclip_explain")["detail"]
    assert outcome.check("others")["values"]["models"] == ["other_score"]
    assert outcome.verdict("model", "ctclip_vision") == "PASS"
    assert outcome.verdict("canary", "ctclip_image_embedding") == "PASS"
    assert outcome.verdict("canary", "ctclip_pathologies") == "NOT RUN"
    assert outcome.verdict("same scores") == "NOT RUN"
    assert not any(title.startswith("canary") for title in failed)


@pytest.fixture(scope="module")
def mixed(repository, checkpoint, tmp_path_factory):
    """The bank of another export beside this one's text encoder, and a record of random weights."""
    folder = shutil.copytree(repository, tmp_path_factory.mktemp("mixed") / "repository")
    bank = np.random.default_rng(0).normal(size=(36, 32)).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    graph = findings_graph(float(checkpoint.model.temperature), bank)
    onnx.save(graph, folder / "ctclip_findings/1/model.onnx")
    record = folder / "ctclip_check/1/provenance.json"
    edit_record(record, lambda r: r["release"]["checkpoint"].update(random_weights=True))
    with EmbeddedTriton(folder) as triton:
        yield triton


def test_a_bank_of_another_release_is_found_by_its_answers(doctor, mixed):
    """All models are ready, every answer is finite and well shaped, and still they disagree."""
    outcome = doctor(mixed.grpc_url)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"same scores", "relevance"})
    assert outcome.check("same scores")["values"]["largest_change"] > 0.05
    assert outcome.verdict("provenance") == "WARN"
    assert "RANDOM WEIGHTS" in outcome.check("provenance")["detail"]


@pytest.mark.parametrize(
    ("error", "verdict"), [(0.0, "PASS"), (9e-4, "PASS"), (2e-3, "WARN"), (0.2, "FAIL")]
)
def test_maps_are_held_to_the_contracts_bound(error, verdict):
    """As of bf16, which rounds the embedding and not the maps."""
    maps = np.full((1, 2, 1, 1, 2), 0.5)
    maps[0, 1, 0, 0, 1] += error
    logits = np.array([[[1.0, 0.0], [1.0, 0.0]]])
    answers = Answers({"ctclip_explain": {"RELEVANCE": maps, "LOGITS": logits}})
    *_, check = agreement_checks(answers)
    assert (check.name, check.verdict) == ("relevance", verdict)


@pytest.fixture(scope="module")
def guarded(repository):
    """TLS, and the questions that tell about the inside behind a word."""
    certificate = TLS_FOLDER / "server.pem"
    options = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={certificate}",
        f"--grpc-server-key={TLS_FOLDER / 'server.key'}",
        f"--grpc-root-cert={certificate}",
        "--grpc-restricted-protocol=statistics,model-repository,model-config:word=sesame",
    ]
    with EmbeddedTriton(repository, extra_arguments=options) as triton:
        yield triton


def test_what_a_server_keeps_to_itself_is_not_run_and_no_fault(doctor, guarded, repository):
    certificates = ("--root-certificates", TLS_FOLDER / "server.pem", "--repository", repository)
    outcome = doctor(guarded.grpc_url, *certificates)
    assert (outcome.code, outcome.titles("FAIL")) == (0, set())
    assert {"index", "latency", "pins", "self-check"} <= outcome.titles("NOT RUN")
    assert outcome.verdict("canary", "ctclip_explain") == "PASS"
    word = ("--header", "triton-grpc-protocol-word=sesame")
    outcome = doctor(guarded.grpc_url, *certificates, *word)
    assert (outcome.code, outcome.titles("NOT RUN")) == (0, set())
    assert "sesame" not in outcome.out + outcome.err


def test_without_tls_nobody_answers(doctor, guarded):
    assert doctor(guarded.grpc_url, "--timeout-s", "3").code == 4


def test_nobody_there_is_exit_4(doctor):
    with socket.socket() as taken:  # bound and never listening, so that nobody else can answer
        taken.bind(("127.0.0.1", 0))
        outcome = doctor(f"127.0.0.1:{taken.getsockname()[1]}")
    assert (outcome.code, outcome.out) == (4, "")
    assert "no Triton answers" in outcome.err


def test_somebody_who_never_answers_is_exit_4(doctor):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        outcome = doctor(f"127.0.0.1:{silent.getsockname()[1]}", "--timeout-s", "0.5")
    assert (outcome.code, outcome.out) == (4, "")


def test_the_http_port_is_exit_4(doctor, server):
    assert doctor(server.http_url.removeprefix("http://"), "--timeout-s", "3").code == 4
