"""Steps answer for the release under test, scan by scan, or fail by name."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from ctclip_bench.parity import steps
from ctclip_bench.parity.inputs import NoVerdict, ParityInputs, read_inputs
from ctclip_bench.parity.plan import planned_steps
from ctclip_bench.parity.prepared_scans import PreparedScan, preprocess_scans, read_scans
from ctclip_bench.parity.step_process import Step, run_step, without_names
from ctclip_client.contract import GPU_GRAPH, PUBLISHED_GEOMETRY
from ctclip_client.errors import (
    CTClipError,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    ServerError,
    Unavailable,
    Unreadable,
)
from ctclip_client.transport.connection import Connection
from ctclip_export.parity import providers
from ctclip_export.parity.providers import CPU, missing_cuda
from ctclip_export.samples.scans import Scan
from ctclip_export.text.word_pieces import bert_tokenizer
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden

PATIENT = "SMITH_JOHN_19500101"


@pytest.fixture(scope="module")
def inputs(repository: Path, phantoms: Path) -> ParityInputs:
    scans = [Scan(phantoms / "ct0.nii.gz"), Scan(phantoms / "ct0.nii.gz", 1)]
    return read_inputs(repository, scans, None, None)


@pytest.fixture(scope="module")
def scans(inputs: ParityInputs, tmp_path_factory: pytest.TempPathFactory) -> Sequence[PreparedScan]:
    found = read_scans(inputs.scans, tmp_path_factory.mktemp("prepared"), lambda _: None)
    assert all(preprocess_scans(inputs, found))
    return found


# --- processes: what must never look like a pass ---


def _gets(inputs: ParityInputs, scans: Sequence[PreparedScan], number: int) -> Iterator[int]:
    yield 1
    os.kill(os.getpid(), number)


def _too_little(inputs: ParityInputs, scans: Sequence[PreparedScan]) -> Iterator[int]:
    yield 1


def _raises(inputs: ParityInputs, scans: Sequence[PreparedScan], error: Exception) -> Iterator[int]:
    yield 1
    raise error


def _exits(inputs: ParityInputs, scans: Sequence[PreparedScan]) -> Iterator[int]:
    yield 1
    os._exit(7)


def _seeds(inputs: ParityInputs, scans: Sequence[PreparedScan]) -> Iterator[int | None]:
    for scan in scans:
        yield scan.scan.seed


@pytest.mark.parametrize(
    ("step", "failure"),
    [
        (partial(_gets, number=signal.SIGFPE), "killed by SIGFPE"),
        (_too_little, "1 answers for 2 scans"),
        (partial(_raises, error=ZeroDivisionError("by design")), "ZeroDivisionError: by design"),
        (partial(_raises, error=InvalidInput("the server refuses it.")), "refuses it"),
        (partial(_raises, error=ServerError("INTERNAL.")), "INTERNAL"),
        (_exits, "exit code 7"),
    ],
)
def test_steps_that_die_have_failed(
    step: Step[int], failure: str, inputs: ParityInputs, scans: Sequence[PreparedScan]
) -> None:
    ran = run_step(step, inputs, scans)
    assert failure in ran.failure
    assert ran.answers == ()


@pytest.mark.parametrize(
    ("step", "said", "code"),
    [
        (partial(_gets, number=signal.SIGKILL), "was killed", 2),
        (partial(_gets, number=signal.SIGTERM), "was killed", 2),
        (partial(_raises, error=MemoryError("no more")), "too little memory: MemoryError", 2),
        (partial(_raises, error=RuntimeError("Failed to allocate memory")), "little memory", 2),
        (partial(_raises, error=OSError(errno.ENOSPC, "No space left")), "No space left", 2),
        (partial(_raises, error=Unreadable("a.nii: damaged.", "Copy it.")), "a.nii: damaged", 2),
        (partial(_raises, error=Unavailable("nobody there.")), "nobody there", 4),
        (partial(_raises, error=DeadlineExceeded("no answer.")), "no answer", 4),
        (partial(_raises, error=NotReady("not loaded.")), "not loaded", 4),
    ],
)
def test_what_says_nothing_of_the_release_is_no_failure_of_it(
    step: Step[int], said: str, code: int, inputs: ParityInputs, scans: Sequence[PreparedScan]
) -> None:
    with pytest.raises(CTClipError, match=said) as caught:
        run_step(step, inputs, scans)
    assert caught.value.exit_code == code
    if isinstance(caught.value, Unreadable):
        assert caught.value.remedy == "Copy it."


def test_a_reference_that_cannot_be_computed_is_no_failure_of_the_release(
    inputs: ParityInputs, scans: Sequence[PreparedScan], golden: Golden
) -> None:
    """Whatever it is that PyTorch says."""
    head = golden.folder / "ct_lipro.pt"
    for checkpoint in (head, golden.text_model / "vocab.txt"):
        other = replace(inputs, checkpoint=checkpoint, text_model=golden.text_model)
        if checkpoint == head:
            other = replace(other, release=replace(other.release, geometry=PUBLISHED_GEOMETRY))
        with pytest.raises(NoVerdict, match="PyTorch's answer cannot be computed"):
            run_step(steps.pytorch, other, scans)


def test_the_vocabulary_counts_and_not_the_file_that_holds_it(
    repository: Path, golden: Golden, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(golden.text_model, tmp_path / "text model"))
    words = (folder / "vocab.txt").read_text(encoding="utf-8")
    (folder / "vocab.txt").unlink()
    bert_tokenizer(words, 512).save(str(folder / "tokenizer.json"))
    assert read_inputs(repository, [], golden.checkpoint, folder).text_model == folder


def _keeps_a_file(inputs: ParityInputs, scans: Sequence[PreparedScan]) -> Iterator[int]:
    with tempfile.NamedTemporaryFile(dir=scans[0].stored.parent, suffix=".patient"):
        yield 1
        threading.Event().wait()


def test_an_interrupted_step_puts_its_work_away(
    inputs: ParityInputs, scans: Sequence[PreparedScan]
) -> None:
    folder = scans[0].stored.parent
    seen: list[Path] = []

    def interrupt(_: int) -> None:
        seen.extend(folder.glob("*.patient"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(_keeps_a_file, inputs, scans, interrupt)
    assert len(seen) == 1
    assert not list(folder.glob("*.patient"))


def test_answers_come_in_order(inputs: ParityInputs, scans: Sequence[PreparedScan]) -> None:
    ran = run_step(_seeds, inputs, scans)
    assert (ran.answers, ran.failure) == ((None, 1), "")


def test_scans_go_by_number(tmp_path: Path) -> None:
    paths = [tmp_path / f"{PATIENT}.nii.gz", tmp_path / f"{PATIENT}.nii.gz.nii.gz"]
    text = f"{paths[1]}: cut short; {paths[0].name}: odd; no such folder {tmp_path}"
    assert (
        without_names(text, paths)
        == "scan 2: cut short; scan 1: odd; no such folder the scans' folder"
    )


# --- ONNX Runtime where a GPU is ---


def test_the_gpus_step_answers_as_the_cpus_one(
    inputs: ParityInputs, scans: Sequence[PreparedScan]
) -> None:
    """All of it but CUDA itself: the same code with the provider that every machine has."""
    found, expected = (
        list(step(inputs, scans))
        for step in (partial(steps.onnx_runtime_cuda, providers=CPU), steps.onnx_runtime)
    )
    assert len(found) == len(scans)
    for got, answer in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got.codes, answer.codes)
        for name in ("image_embedding", "logits", "text_embedding", "tokens"):
            np.testing.assert_allclose(getattr(got, name), getattr(answer, name), atol=1e-5)


def test_it_takes_preprocessings_own_graph_for_gpus_and_judges_it(
    repository: Path, phantoms: Path, scans: Sequence[PreparedScan], tmp_path: Path
) -> None:
    own = Path(shutil.copytree(repository, tmp_path / "repository"))
    inputs = read_inputs(own, [Scan(phantoms / "ct0.nii.gz")], None, None)
    graph = onnx.load(inputs.file("ctclip_preprocess"))
    (out,) = graph.graph.output
    maker = next(node for node in graph.graph.node if out.name in node.output)
    maker.output[list(maker.output).index(out.name)] = "before"
    shift = onnx.numpy_helper.from_array(np.array(3e-4, np.float32), "shift")
    graph.graph.initializer.append(shift)
    graph.graph.node.append(onnx.helper.make_node("Add", ["before", "shift"], [out.name]))
    onnx.save(graph, inputs.file("ctclip_preprocess", GPU_GRAPH))
    ran = run_step(partial(steps.onnx_runtime_cuda, providers=CPU), inputs, scans[:1])
    assert "ctclip_preprocess: VOXELS" in ran.failure


@pytest.mark.skipif(not missing_cuda(), reason="ONNX Runtime computes on a GPU here")
def test_without_cuda_it_is_not_run_and_says_why(
    inputs: ParityInputs, scans: Sequence[PreparedScan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason() -> str:
        (step,) = (s for s in planned_steps(inputs) if s.name.endswith("ONNX Runtime on CUDA"))
        return step.missing

    assert (
        "has no CUDAExecutionProvider: make environment GPU=1" in reason()
        or "nvidia-smi" in reason()
    )
    everything = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: everything)
    monkeypatch.setenv("PATH", "/nowhere")
    assert reason() == "no NVIDIA driver: nvidia-smi is not on this machine."
    # A GPU, and a provider that starts for too long, as a damaged driver's may.
    monkeypatch.setattr(providers, "read_gpu", lambda: None)
    with monkeypatch.context() as patched:
        patched.setattr(providers, "START_TIMEOUT_S", 0.01)
        assert reason() == "CUDAExecutionProvider did not start within 0.01 s"
    # A provider that does not start, for which ONNX Runtime would take the CPU.
    assert reason().startswith("onnxruntime does not start CUDAExecutionProvider here: ")
    assert "does not start CUDA" in run_step(steps.onnx_runtime_cuda, inputs, scans).failure


def test_a_gpu_that_fails_in_the_middle_is_not_replaced_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ONNX Runtime would open the session again without the GPU, and answer."""
    session = providers.open_session(providers._smallest_graph(), CPU)
    failing = providers.onnxruntime.capi.onnxruntime_pybind11_state.EPFail
    real = session._sess

    class Lost:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def run(self, *_: object) -> None:
            raise failing("CUDA failure 719")

    monkeypatch.setattr(session, "_sess", Lost())
    with pytest.raises(failing, match="719"):
        providers.run_session(session, {"X": np.ones(1, np.float32)})


def test_a_provider_is_tried_where_there_is_one() -> None:
    assert providers.main(["CPUExecutionProvider"]) == 0


# --- served: which release answers ---


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


def named(inputs: ParityInputs, release: str, url: str) -> ParityInputs:
    return replace(
        inputs, release=replace(inputs.release, release=release), connection=Connection(url)
    )


def test_a_server_of_another_release_is_refused(
    inputs: ParityInputs, scans: Sequence[PreparedScan], server: EmbeddedTriton
) -> None:
    other = named(inputs, "0123456789abcdef", server.grpc_url)
    expected = f"answers for release {inputs.release.name}, expected 0123456789abcdef"
    for step in (steps.served, steps.from_file):
        with pytest.raises(InvalidInput, match=expected):
            next(step(other, scans))


def test_every_model_of_the_release_under_test_is_asked(
    inputs: ParityInputs,
    scans: Sequence[PreparedScan],
    server: EmbeddedTriton,
    two_releases: EmbeddedTriton,
) -> None:
    alone = next(steps.served(replace(inputs, connection=Connection(server.grpc_url)), scans))
    beside = replace(inputs, connection=Connection(two_releases.grpc_url))
    answer = next(steps.served(beside, scans))
    other = next(steps.served(named(inputs, "the coming one", two_releases.grpc_url), scans))
    for name in ("logits", "text_embedding"):
        np.testing.assert_allclose(getattr(answer, name), getattr(alone, name), rtol=0, atol=1e-5)
        assert np.abs(getattr(other, name) - getattr(alone, name)).max() > 1e-3, name


def test_a_server_of_neither_release_names_all_that_it_has(
    inputs: ParityInputs, scans: Sequence[PreparedScan], two_releases: EmbeddedTriton
) -> None:
    neither = named(inputs, "0123456789abcdef", two_releases.grpc_url)
    expected = f"{inputs.release.name}, the coming one, expected 0123456789abcdef"
    with pytest.raises(InvalidInput, match=expected):
        next(steps.served(neither, scans))


def test_without_a_server_the_step_fails_in_words(
    inputs: ParityInputs, scans: Sequence[PreparedScan]
) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        next(steps.served(replace(inputs, connection=Connection("127.0.0.1:9")), scans))


def test_a_server_that_never_answers_is_not_waited_for(
    inputs: ParityInputs, scans: Sequence[PreparedScan]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = Connection(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.5)
        with pytest.raises(CTClipError, match=r"no answer in time|no Triton"):
            next(steps.served(replace(inputs, connection=asked), scans))


def test_a_variation_goes_the_whole_way(
    inputs: ParityInputs, scans: Sequence[PreparedScan], server: EmbeddedTriton
) -> None:
    """File, reader, client, ensemble: what the graphs answer for the same variation."""
    asked = replace(inputs, connection=Connection(server.grpc_url))
    (by_file, by_graphs) = (
        list(step(asked, scans))[1] for step in (steps.from_file, steps.onnx_runtime)
    )
    np.testing.assert_allclose(by_file.logits, by_graphs.logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(by_file.text_embedding, by_graphs.text_embedding, atol=1e-5)
