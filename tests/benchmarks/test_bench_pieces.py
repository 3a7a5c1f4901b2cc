"""The pieces of `ctclip bench serve`: answers, LoadGen's logs, Triton's statistics, memory."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from ctclip_bench.load.asking import Asked, ClosedLoop, Expected, Question, parts_of, per_s
from ctclip_bench.load.loadgen import LoadGenJob, read_accuracy_log, read_summary
from ctclip_bench.load.memory import Peaks, core_seconds, process_memory
from ctclip_bench.load.server import without_address
from ctclip_bench.load.statistics import Spent, figures, parse, read, read_if_told
from ctclip_bench.load.worker import Worker
from ctclip_client import read_volume
from ctclip_client.contract import PYTHON_MODELS, prompts_for
from ctclip_client.errors import CTClipError, DeadlineExceeded, ServiceError, Unavailable
from ctclip_client.transport.connection import Connection
from ctclip_server.embedded.server import EmbeddedTriton

SHM = Path("/dev/shm")  # noqa: S108 (Linux's own)


@pytest.fixture
def question(phantoms: Path, tmp_path: Path) -> Question:
    return Question.keep(read_volume(phantoms / "ct0.nii.gz"), tmp_path / "question.npy")


@pytest.fixture
def endless(question: Question, tmp_path: Path) -> LoadGenJob:
    return LoadGenJob((question,), "SingleStream", tmp_path, queries=10**6, limit_s=60)


# --- answers ---


def test_an_answer_has_to_repeat_the_judged_one() -> None:
    random = np.random.default_rng(0)
    known = random.standard_normal(3 * 3 + 8).astype(np.float32)
    logits, probabilities, embedding = parts_of(known, 3)
    assert (logits.shape, probabilities.shape, embedding.shape) == ((3, 2), (3,), (8,))
    np.testing.assert_array_equal(logits[1], known[2:4])
    with pytest.raises(ValueError, match="findings"):
        parts_of(known[:9], 3)
    expected = Expected(known, cosine=0.9999, probability=1e-3)
    assert expected.complaint(known, 3) == ""
    turned = np.concatenate([known[:9], known[9:][::-1]])
    assert "cosine" in expected.complaint(turned, 3)
    off = known.copy()
    off[6] += 0.01
    assert "|Δprobability| 1.0e-02" in expected.complaint(off, 3)
    assert "numbers, expected 17" in expected.complaint(known[:-1], 3)
    nothing = np.full_like(known, np.nan)
    assert "nan" in expected.complaint(nothing, 3)


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
    with Worker(Connection(server.grpc_url)) as worker:
        asked = worker.ask(ClosedLoop((question, other), 2, 5, 60), done.append)
        answers = [next(a.answer for a in asked if a.question == number) for number in (0, 1)]
        knowing = [
            replace(each, expected=Expected(answer, 0.9999, 1e-3))
            for each, answer in zip((question, other), answers, strict=True)
        ]
        late = worker.ask(ClosedLoop(tuple(knowing), 3, 9))
        turned = Expected(answers[0][::-1], 0.9999, 1e-3)
        wrong = worker.ask(ClosedLoop((replace(question, expected=turned),)))
    assert len(asked) == sum(done) == 5
    assert sorted(each.question for each in asked) == [0, 0, 0, 1, 1]
    assert len(late) == 3  # one for each client, however short the time
    assert {each.complaint for each in late} == {""}
    assert wrong[0].complaint
    ends = [Asked(0, float(n), n + 2.0, answers[0], 0, "grpc", "r") for n in range(2)]
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
        answered.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), Worker(Connection(server.grpc_url)) as worker:
        worker.ask(endless, lambda _: answered.set())
    assert_gone(worker)
    mine = f"ctclip-client-{worker.process_id}-"
    assert not [path for path in SHM.iterdir() if path.name.startswith(mine)]


def test_a_process_that_dies_is_an_error(server: EmbeddedTriton, endless: LoadGenJob) -> None:
    with (
        pytest.raises(ServiceError, match=r"died .*SIGKILL"),
        Worker(Connection(server.grpc_url)) as worker,
    ):
        worker.ask(endless, lambda _: os.kill(worker.process_id, signal.SIGKILL))
    assert_gone(worker)


# --- logs and statistics ---


def test_the_summary_of_loadgen_is_read_line_by_line() -> None:
    text = (
        "=====\nMLPerf Results Summary\n=====\nSUT name : PySUT\nSamples per second: 19.8\n"
        "Result is : INVALID\n  Min duration satisfied : Yes\nRecommendations:\n"
        "99.00 percentile latency (ns)   : 51754692\nQPS w/o loadgen overhead : inf\n"
    )
    assert read_summary(text) == {
        "SUT name": "PySUT", "Samples per second": 19.8, "Result is": "INVALID",
        "Min duration satisfied": "Yes", "99.00 percentile latency (ns)": 51754692.0,
        "QPS w/o loadgen overhead": "inf",
    }  # fmt: skip


@pytest.mark.parametrize("entries", [[0], [0, 0], [0, 2], "no list"])
def test_an_accuracy_log_without_every_scan_is_refused(entries: Any, tmp_path: Path) -> None:
    found: Any = entries
    if entries != "no list":
        found = [{"seq_id": i, "qsl_idx": scan, "data": "00" * 4} for i, scan in enumerate(entries)]
    (tmp_path / "mlperf_log_accuracy.json").write_text(json.dumps(found))
    with pytest.raises(CTClipError, match="mlperf_log_accuracy"):
        read_accuracy_log(tmp_path, 2)


def statistics(requests: int, version: str = "1") -> Any:
    entry = service_pb2.ModelStatistics(
        name="ctclip_vision", version=version, inference_count=4 * requests,
        execution_count=requests,
    )  # fmt: skip
    for index, phase in enumerate(
        ("success", "queue", "compute_input", "compute_infer", "compute_output")
    ):
        field = getattr(entry.inference_stats, phase)
        field.count, field.ns = requests, requests * (index + 1) * 1_000_000
    return entry


def test_statistics_are_of_all_versions_and_differences_say_what_a_request_took() -> None:
    response = service_pb2.ModelStatisticsResponse
    before = parse(response(model_stats=[statistics(2)]))
    both = [statistics(5), statistics(3, "2"), service_pb2.ModelStatistics(name="idle")]
    spent = parse(response(model_stats=both))["ctclip_vision"] - before["ctclip_vision"]
    assert figures(spent) == {
        "requests": 6, "executions": 6, "mean_batch": 4.0, "total_ms": 1.0, "queue_ms": 2.0,
        "compute_input_ms": 3.0, "compute_infer_ms": 4.0, "compute_output_ms": 5.0,
    }  # fmt: skip
    assert figures(Spent())["mean_batch"] == 0


def test_questions_to_a_server_that_hangs_end() -> None:
    """Statistics are asked between the rows."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        to = Connection(f"127.0.0.1:{taken.getsockname()[1]}", 0.3)
        with pytest.raises((Unavailable, DeadlineExceeded)):
            read(to)
        assert read_if_told(to) == {}


# --- memory ---


def test_memory_and_seconds_of_a_process_and_its_children() -> None:
    alone = sum(process_memory(os.getpid()).values())
    code = (
        "block = bytearray(b'x' * 100_000_000); sum(range(1_000_000)); print('', flush=True); "
        "input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        both = sum(process_memory(os.getpid()).values())
        assert core_seconds(child.pid) > 0
        child.communicate(b"\n")
    assert both - alone > 80_000_000
    assert process_memory(child.pid) == {}
    assert core_seconds(child.pid) == 0


def test_processes_of_a_server_are_named(server: EmbeddedTriton) -> None:
    assert server.process_id is not None
    names = process_memory(server.process_id)
    assert "tritonserver" in names
    assert {f"Python of {model.name}" for model in PYTHON_MODELS} <= set(names)


def test_peaks_are_the_largest_that_was_seen() -> None:
    sizes = iter([{"a": 5}, {"a": 9, "b": 1}, {"a": 7}])
    seen = threading.Event()

    def read() -> dict[str, int]:
        size = next(sizes, {})
        if not size:
            seen.set()
        return size

    with Peaks(read, interval_s=0.001) as peaks:
        assert seen.wait(10)
    assert peaks.gib == {"a": 9 / 2**30, "b": 1 / 2**30}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ct.example:8001: connection to ipv4:192.0.2.7:8001 refused", "ct.example:8001"),
        ("[2001:db8::7]:8001: last error ipv6:[2001:db8::7]:8001; gone", "[2001:db8::7]:8001"),
        ("ct.example is unknown", "ct.example:8001"),
        ("ipv4:192.0.2.7:8001: refused", "192.0.2.7:8001"),
    ],
)
def test_a_reason_names_no_host(text: str, address: str) -> None:
    said = without_address(text, address)
    assert "the server" in said
    assert not re.search(r"example|192|db8|8001", said)
