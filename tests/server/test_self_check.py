"""A release proves itself where it is to serve: `ctclip serve` and `ctclip promote`."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from ctclip_client.cli.program import main
from ctclip_client.contract import CHECK
from ctclip_client.errors import DeadlineExceeded, NotReady, Unavailable, Unreadable
from ctclip_client.release.digest import sha256
from ctclip_client.release.members import read_members
from ctclip_client.release.self_check import FILE, read_self_check
from ctclip_client.system.processor import processor_name
from ctclip_client.transport.connection import Connection
from ctclip_server import EmbeddedTriton
from ctclip_server.embedded.server import RestartableError
from ctclip_server.releases.control import Control
from ctclip_server.releases.place import place_release
from ctclip_server.self_check import SelfCheckError, check_embedded, patiently

from ..conftest import edit_self_check
from .releases import configs, copied, edit_record, rename_release

READY = re.compile(r"ready grpc=127\.0\.0\.1:\d+ http=127\.0\.0\.1:\d+ metrics=127\.0\.0\.1:\d+\n")
SECOND = "5ec0d5ec0d5ec0d5"


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Path:
    return copied(repository, tmp_path / "repository")


def plant(repository: Path, model: str, constant: str, version: int = 1) -> None:
    """Swap the two halves of a weight, and make the records match."""
    path = repository / model / str(version) / "model.onnx"
    proto = onnx.load(path)
    (tensor,) = (each for each in proto.graph.initializer if each.name == constant)
    array = onnx.numpy_helper.to_array(tensor)
    changed = np.roll(array, array.shape[-1] // 2, axis=-1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed.astype(array.dtype), constant))
    onnx.save(proto, path)
    edit_record(repository, model, version, file_sha256=sha256(path))


def weight(repository: Path, model: str, ndim: int = 2) -> str:
    """The last constant of so many axes: part of the projection behind the encoder."""
    graph = onnx.load(repository / model / "1" / "model.onnx").graph
    return [each.name for each in graph.initializer if len(each.dims) == ndim][-1]


def refused(process) -> str:
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, ""), err
    assert "Traceback" not in err
    return err


def served(process) -> str:
    assert READY.fullmatch(process.stdout.readline())
    process.terminate()
    return process.communicate(timeout=60)[1]


@pytest.mark.parametrize(
    ("model", "backend", "said"),
    [
        (
            "ctclip_vision",
            "onnxruntime",
            r"error: self-check: .*embedding 0\.\d+, expected 0\.9999",
        ),
        pytest.param(
            "ctclip_text",
            "openvino",
            r"error: self-check: .*\|Δprobability\| ",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_fault_in_a_graph_keeps_it_from_being_ready(model, backend, said, own, serve):
    plant(own, model, weight(own, model))
    options = ["--config-name", backend] if backend == "openvino" else []
    err = refused(serve("--repository", own, *options))
    assert re.search(said, err)
    assert ("cosine" in err) == (model == "ctclip_vision")
    assert f"ctclip_vision by {backend} on {processor_name()}" in err
    assert "by the bounds of fp32" in err


@pytest.mark.slow
@pytest.mark.usefixtures("needs_bfloat16")
def test_another_backend_passes_by_the_bounds_of_what_it_computes_in(repository, serve):
    err = served(serve("--repository", repository, "--config-name", "openvino-bf16"))
    assert "self-check passed in bf16, ctclip_vision by openvino on " in err


def test_openvino_passes_in_float32(repository, openvino_server):
    (said,) = check_embedded(Served(repository, openvino_server, "openvino"), 60)
    assert said.startswith("self-check passed in fp32, ctclip_vision by openvino on ")


@dataclass
class Served:
    """The session's server, as if it had been started over another repository of its release."""

    repository: Path
    server: EmbeddedTriton
    config_name: str | None = None

    @property
    def grpc_url(self) -> str:
        return self.server.grpc_url

    def wait(self, timeout_s: float) -> int:
        return self.server.wait(timeout_s)


def test_without_a_self_check_it_serves_with_a_warning(own, server):
    (own / CHECK.name / "1" / FILE).unlink()
    (said,) = check_embedded(Served(own, server), 60)
    assert "WARNING: this release carries no self-check (an older ctclip exported it)" in said


def test_a_damaged_one_is_bad_input(own, server):
    (own / CHECK.name / "1" / FILE).write_bytes(b"PK\3\4")
    said = f"self-check: {own / CHECK.name / '1'}: {FILE}: no self-check that can be read"
    with pytest.raises(Unreadable, match=re.escape(said)):
        list(check_embedded(Served(own, server), 60))


def test_one_of_another_release_proves_nothing(own, server):
    edit_self_check(own, release=SECOND)
    with pytest.raises(SelfCheckError, match=f"answers, the self-check is of {SECOND}"):
        list(check_embedded(Served(own, server), 60))


def test_a_repository_of_some_models_serves_with_a_warning(own, serve):
    kept = {"ctclip_check", "ctclip_preprocess", "ctclip_vision", "ctclip_image_embedding"}
    for folder in own.iterdir():
        if folder.name not in kept:
            shutil.rmtree(folder)
    err = served(serve("--repository", own))
    assert "WARNING: self-check NOT RUN: the repository lacks ctclip_gate, " in err


def test_other_scores_of_the_same_embedding_fail_it(own, server):
    check = read_self_check(own / CHECK.name / "1" / FILE)
    edit_self_check(own, logits=check.logits * 1.01)
    with pytest.raises(SelfCheckError, match=r"\|Δprobability\| "):
        list(check_embedded(Served(own, server), 60))


def test_a_model_that_answers_with_an_error_fails_it(own, server):
    """Here a scan of less than one of the model's voxels."""
    check = read_self_check(own / CHECK.name / "1" / FILE)
    edit_self_check(own, volume=check.volume[:, :1, :1].copy(), spacing=np.array([0.1, 0.1, 0.1]))
    with pytest.raises(SelfCheckError, match=r"^self-check: "):
        list(check_embedded(Served(own, server), 60))


@pytest.mark.slow
def test_every_version_that_serves_is_asked_after_an_interrupted_promotion(two, serve):
    """One ensemble was changed over, and the steps are told to serve both."""
    for path in two.glob("*/config.pbtxt"):
        text = path.read_text()
        if "ensemble_scheduling" not in text:
            path.write_text(text.replace("versions: [1]", "versions: [1, 2]"))
    path = two / "ctclip_pathologies" / "config.pbtxt"
    path.write_text(path.read_text().replace("model_version: 1", "model_version: 2"))
    plant(two, "ctclip_vision", weight(two, "ctclip_vision"), 2)
    err = refused(serve("--repository", two))
    assert "self-check: cosine of the embedding 0." in err
    assert err.count("self-check passed in fp32") == 1  # the other version's


def test_an_ensemble_that_mixes_versions_is_refused(two, server):
    for name in ("ctclip_tokenizer", "ctclip_text", "ctclip_gate", "ctclip_check"):
        path = two / name / "config.pbtxt"
        path.write_text(path.read_text().replace("versions: [1]", "versions: [1, 2]"))
    path = two / "ctclip_zero_shot" / "config.pbtxt"
    path.write_text(path.read_text().replace("model_version: 1", "model_version: 2", 1))
    said = "'ctclip_zero_shot' pins its steps to versions [1, 2], expected one"
    with pytest.raises(SelfCheckError, match=re.escape(said)):
        list(check_embedded(Served(two, server), 60))


# --- promote ---


@pytest.fixture
def two(own: Path) -> Path:
    """The release once more, as version 2 under another name."""
    for folder in own.iterdir():
        shutil.copytree(folder / "1", folder / "2")
    rename_release(own, SECOND, 2)
    return own


def promote(repository: Path, triton: EmbeddedTriton) -> int:
    return main(["promote", "--repository", str(repository), "--url", triton.grpc_url])


def release_of(triton: EmbeddedTriton, repository: Path) -> str:
    """What an ensemble names, asked with the question of version 1."""
    inputs = read_self_check(repository / CHECK.name / "1" / FILE).inputs()
    del inputs["PROMPTS"]
    with Control(Connection(triton.grpc_url, 60)) as control:
        answer = control.infer("ctclip_image_embedding", None, inputs)
    return json.loads(answer["PROVENANCE"][0])["release"]


def test_promote_asks_the_new_version_before_it_switches(two, capsys):
    first = read_self_check(two / CHECK.name / "1" / FILE).release
    with EmbeddedTriton(two, model_control="explicit") as triton:
        before = configs(two)
        plant(two, "ctclip_vision", weight(two, "ctclip_vision"), 2)
        assert promote(two, triton) == 1
        err = capsys.readouterr().err
        assert "self-check: cosine of the embedding 0." in err
        assert "ctclip_vision by onnxruntime on" in err
        assert "Nothing has changed: version 1 still serves." in err
        assert release_of(triton, two) == first
        assert configs(two) == before

        for name in ("model.onnx", "provenance.json"):
            shutil.copy(two / "ctclip_vision" / "1" / name, two / "ctclip_vision" / "2" / name)
        record = json.loads((two / "ctclip_text" / "2" / "provenance.json").read_text())
        edit_record(two, "ctclip_vision", 2, release=record["release"])
        assert promote(two, triton) == 0
        assert (
            "self-check passed in fp32, ctclip_vision by onnxruntime on" in capsys.readouterr().err
        )
        assert release_of(triton, two) == SECOND


@pytest.mark.parametrize("fault", ["none", "damaged", "of another release"])
def test_a_release_whose_self_check_is_another_becomes_a_new_version(fault, own, repository):
    if fault == "none":
        (own / CHECK.name / "1" / FILE).unlink()
    elif fault == "damaged":
        (own / CHECK.name / "1" / FILE).write_bytes(b"PK")
    else:
        edit_self_check(own, release=SECOND)
    assert place_release(read_members(own), read_members(repository)) == 2
    taken, given = (
        folder / CHECK.name / name / FILE for folder, name in ((own, "2"), (repository, "1"))
    )
    assert taken.read_bytes() == given.read_bytes()


@pytest.mark.parametrize("fault", ["damaged", "of another release"])
def test_promote_from_takes_no_self_check_that_proves_nothing(fault, own, repository, tmp_path):
    """Here is none, and so nothing would have kept this release from serving."""
    (own / CHECK.name / "1" / FILE).unlink()
    other = copied(repository, tmp_path / "other")
    if fault == "damaged":
        (other / CHECK.name / "1" / FILE).write_bytes(b"PK")
    else:
        edit_self_check(other, release=SECOND)
    with pytest.raises(Unreadable if fault == "damaged" else SelfCheckError, match="self-check: "):
        place_release(read_members(own), read_members(other))
    assert not (own / CHECK.name / "1" / FILE).exists()


@pytest.mark.slow
def test_promote_says_that_it_could_not_ask(two, capsys):
    """A server that was told to load some models only."""
    models = ["ctclip_image_embedding"]
    with EmbeddedTriton(two, model_control="explicit", load_models=models) as triton:
        assert promote(two, triton) == 0
    err = capsys.readouterr().err
    assert "WARNING: self-check NOT RUN: the server lacks ctclip_gate, ctclip_" in err
    assert "self-check passed" not in err


# --- what is no answer ---


def asked(*results):
    """A question that fails so often, and the number of times that it was asked."""
    times = []

    def ask():
        times.append(1)
        result = results[min(len(times), len(results)) - 1]
        if isinstance(result, Exception):
            raise result
        return result

    return ask, times


def test_a_full_queue_is_asked_again():
    ask, times = asked(Unavailable("full"), NotReady("loading"), "passed")
    assert patiently(ask, lambda: None, 60) == "passed"
    assert len(times) == 3


@pytest.mark.parametrize(
    ("failure", "timeout_s"),
    [(Unavailable("full"), 0), (DeadlineExceeded("slow"), 60), (SelfCheckError("wrong"), 60)],
)
def test_other_failures_and_a_queue_that_stays_full_are_final(failure, timeout_s):
    ask, times = asked(failure)
    with pytest.raises(type(failure)):
        patiently(ask, lambda: None, timeout_s)
    assert len(times) == 1


@pytest.mark.parametrize("failure", [Unavailable("gone"), SelfCheckError("INTERNAL")])
def test_a_triton_that_was_lost_meanwhile_is_no_verdict(failure):
    """`ctclip serve` looks after it when there is no answer, and starts it again."""

    def look():
        raise RestartableError("lost")

    ask, _ = asked(failure)
    with pytest.raises(RestartableError):
        patiently(ask, look, 60)


def test_an_answer_of_the_size_of_a_scan_comes_through(zoo):
    """gRPC itself stops at 4 MiB, and the published VOXELS have 221 MB."""
    sent = {
        "VOLUME": np.zeros((3, 1024, 1024), np.int16),
        "SPACING": np.ones(3),
        "HALF": np.zeros((2, 2), np.float16),
        "FLAG": np.array([True]),
    }
    with Control(Connection(zoo.grpc_url, 60), proxy=False) as control:
        got = control.infer("mixed", None, sent)
    np.testing.assert_array_equal(got["VOLUME_OUT"], sent["VOLUME"])
