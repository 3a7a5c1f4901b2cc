"""The pieces of `ctclip bench serve`: answers, the process that asks, statistics, memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from ctclip_bench.load import memory
from ctclip_bench.load.asking import Asked, ClosedLoop, Question, per_s
from ctclip_bench.load.loadgen import LoadGenJob, as_bytes, logged_answers
from ctclip_bench.load.memory import Peaks, core_seconds, process_memory
from ctclip_bench.load.session import Session
from ctclip_bench.load.statistics import count, figures, parse, read
from ctclip_bench.load.worker import Worker, start_worker
from ctclip_client import Scores, read_volume
from ctclip_client.contract import PYTHON_MODELS, prompts_for
from ctclip_client.errors import CTClipError, DeadlineExceeded, ServiceError, Unavailable
from ctclip_client.transport.connection import Connection
from ctclip_export.parity.judge import BOUNDS
from ctclip_server.embedded.server import EmbeddedTriton

from ..client.test_failures import forget_regions

SHM = Path("/dev/shm")  # noqa: S108 (Linux's own)


@pytest.fixture
def question(phantoms: Path, tmp_path: Path) -> Question:
    return Question.keep(read_volume(phantoms / "ct0.nii.gz"), tmp_path / "question.npy")


@pytest.fixture
def endless(question: Question, tmp_path: Path) -> LoadGenJob:
    return LoadGenJob((question,), "SingleStream", tmp_path, queries=10**6, limit_s=60)


def asked(question: int = 0) -> Asked:
    """An answer that nobody gave; each question has its own."""
    random = np.random.default_rng(question)
    logits, probabilities, embedding = (
        random.standard_normal(shape).astype(np.float32) for shape in ((3, 2), 3, 8)
    )
    nobody: Any = None
    scores = Scores(("a", "b", "c"), probabilities, embedding, nobody, {}, nobody, logits)
    return Asked(question, 0.0, 1.0, scores)


# --- answers ---


def test_an_answer_has_to_repeat_the_judged_one_to_its_question() -> None:
    first, second = (asked(number) for number in range(2))
    off = replace(first.scores, probabilities=first.scores.probabilities + np.float32(0.01))
    nothing = replace(first.scores, image_embedding=np.full(8, np.nan, np.float32))
    session: Any = SimpleNamespace(inputs=SimpleNamespace(bounds=BOUNDS["fp32"]))
    answers = [
        first, second, replace(second, question=0), replace(first, scores=off),
        replace(first, scores=nothing),
    ]  # fmt: skip
    found = Session.complaints(session, answers, [first.scores, second.scores])
    assert [text[:7] for text in found] == ["scan 1:"] * 3
    for text, reason in zip(found, ("cosine", "|Δprobability| 1.0e-02", "NaN"), strict=True):
        assert reason in text


def test_a_question_lies_in_memory_as_the_scan_did(phantoms: Path, tmp_path: Path) -> None:
    volume = read_volume(phantoms / "ct2.nii.gz")
    again = Question.keep(volume, tmp_path / "a.npy").volume()
    np.testing.assert_array_equal(again.voxels, volume.voxels)
    assert [abs(s) for s in again.voxels.strides] == [abs(s) for s in volume.voxels.strides]
    assert (again.spacing_mm, again.rescale) == (volume.spacing_mm, volume.rescale)


# --- the process that asks ---


def test_clients_take_turns_with_the_questions(
    server: EmbeddedTriton, question: Question, phantoms: Path, tmp_path: Path
) -> None:
    prompts = (prompts_for("Emphysema"),)
    other = Question.keep(read_volume(phantoms / "ct1.nii.gz"), tmp_path / "1.npy", prompts)
    done: list[int] = []
    with start_worker(Connection(server.grpc_url)) as worker:
        answers = worker.ask(ClosedLoop((question, other), 2, 5, 60), done.append)
        late = worker.ask(ClosedLoop((question, other), 3, 9))
    assert len(answers) == sum(done) == 5
    assert sorted(each.question for each in answers) == [0, 0, 0, 1, 1]
    assert {len(each.scores.findings) for each in answers if each.question == 1} == {1}
    assert len(late) == 3  # one for each client, however short the time
    ends = [replace(asked(), start_s=float(n), end_s=n + 2.0) for n in range(2)]
    assert per_s(ends) == pytest.approx(2 / 3)


def assert_gone(worker: Worker) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(worker.process_id, 0)


def test_an_interrupted_test_of_loadgen_leaves_nothing(
    server: EmbeddedTriton, endless: LoadGenJob
) -> None:
    """Ctrl-C comes while LoadGen waits in C++, inside of the other process."""
    answered = threading.Event()

    def interrupt() -> None:
        if answered.wait(60):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), start_worker(Connection(server.grpc_url)) as worker:
        worker.ask(endless, lambda _: answered.set())
    assert_gone(worker)
    mine = f"ctclip-client-{worker.process_id}-"
    assert not [path for path in SHM.iterdir() if path.name.startswith(mine)]


def test_a_process_that_dies_is_an_error(server: EmbeddedTriton, endless: LoadGenJob) -> None:
    with (
        pytest.raises(ServiceError, match=r"died .*SIGKILL"),
        start_worker(Connection(server.grpc_url)) as worker,
    ):
        worker.ask(endless, lambda _: os.kill(worker.process_id, signal.SIGKILL))
    assert_gone(worker)
    forget_regions(server)


# --- logs and statistics ---


@pytest.mark.parametrize("entries", [[0], [0, 0], [0, 2], [1, 0]])
def test_an_accuracy_log_without_every_answer_is_refused(
    entries: list[int], tmp_path: Path
) -> None:
    """The last list has both, but each is the other's."""
    given = [asked(number) for number in range(2)]
    data = [as_bytes(each.scores).hex() for each in given]
    found = [{"qsl_idx": scan, "data": text} for scan, text in zip(entries, data, strict=False)]
    (tmp_path / "mlperf_log_accuracy.json").write_text(json.dumps(found))
    with pytest.raises(CTClipError, match="mlperf_log_accuracy"):
        logged_answers(tmp_path, given, 2)


def told(*requests: int) -> Any:
    """What Triton says of versions of a model that have answered so many requests, in batches of
    four, each a millisecond long in the queue and two in computing."""
    entries = []
    for version, n in enumerate(requests):
        entry = service_pb2.ModelStatistics(
            name="ctclip_vision", version=f"{version}", inference_count=4 * n, execution_count=n
        )
        entry.inference_stats.success.count = n
        entry.inference_stats.queue.ns = n * 10**6
        entry.inference_stats.compute_infer.ns = n * 2 * 10**6
        entries.append(entry)
    return service_pb2.ModelStatisticsResponse(model_stats=entries)


def test_statistics_are_of_all_versions_and_differences_say_what_a_request_took() -> None:
    spent = parse(told(5, 3))["ctclip_vision"] - parse(told(2))["ctclip_vision"]
    assert figures(spent) == {
        "requests": 6, "executions": 6, "mean_batch": 4, "total_ms": 0, "queue_ms": 1,
        "compute_input_ms": 0, "compute_infer_ms": 2, "compute_output_ms": 0,
    }  # fmt: skip


def test_questions_to_a_server_that_hangs_end() -> None:
    """Statistics are asked between the rows."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        to = Connection(f"127.0.0.1:{taken.getsockname()[1]}", 0.3)
        with pytest.raises((Unavailable, DeadlineExceeded)):
            read(to)
        assert count(to)(["ctclip_vision"], 1) == {}


# --- memory ---


def test_memory_and_seconds_of_a_process_and_its_children() -> None:
    code = "x = bytearray(b'x' * 100_000_000); sum(range(10**6)); print(flush=True); input()"
    alone = sum(process_memory(os.getpid()).values())
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert sum(process_memory(os.getpid()).values()) - alone > 80_000_000
        assert core_seconds(child.pid) > 0
        child.communicate(b"\n")
    assert process_memory(child.pid) == {}
    assert core_seconds(child.pid) == 0


def test_processes_of_a_server_are_named(server: EmbeddedTriton) -> None:
    assert server.process_id is not None
    names = process_memory(server.process_id)
    assert "tritonserver" in names
    assert {f"Python of {model.name}" for model in PYTHON_MODELS} <= set(names)


def test_peaks_are_the_largest_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "INTERVAL_S", 0.001)
    sizes = iter([{"a": 5}, {"a": 9, "b": 1}, {"a": 7}])
    seen = threading.Event()

    def read() -> dict[str, int]:
        return next(sizes, None) or seen.set() or {}

    with Peaks(read) as peaks:
        assert seen.wait(10)
    assert peaks.gib == {"a": 9 / 2**30, "b": 1 / 2**30}
