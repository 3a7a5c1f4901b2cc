"""The pieces of `ctclip bench serve`: answers, LoadGen's logs, Triton's statistics, memory."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from ctclip_bench.load.answers import Answer, Question, Repeat
from ctclip_bench.load.closed_loop import Asked, ClosedLoop, per_s
from ctclip_bench.load.loadgen import read_accuracy_log, read_summary
from ctclip_bench.load.memory import Peaks, core_seconds, process_memory
from ctclip_bench.load.server import Raw, Server, without_address
from ctclip_bench.load.statistics import Spent, difference, read_statistics
from ctclip_bench.load.worker import Worker
from ctclip_client import read_volume
from ctclip_client.contract import PYTHON_MODELS, prompts_for
from ctclip_client.errors import CTClipError, DeadlineExceeded, Unavailable
from ctclip_client.transport.connection import Connection
from ctclip_server.embedded.server import EmbeddedTriton

STRICT = Repeat(cosine=0.9999, probability=1e-3)


def answer(seed: int = 0) -> Answer:
    random = np.random.default_rng(seed)
    parts = (random.standard_normal(shape).astype(np.float32) for shape in ((3, 2), 3, 8))
    return Answer(*parts)


def test_answers_cross_as_bytes() -> None:
    known = answer()
    got = Answer.from_bytes(known.to_bytes(), 3)
    for name in ("logits", "probabilities", "image_embedding"):
        np.testing.assert_array_equal(getattr(got, name), getattr(known, name))
    with pytest.raises(ValueError, match="findings"):
        Answer.from_bytes(known.to_bytes()[:36], 3)


def test_an_answer_has_to_repeat_the_judged_one() -> None:
    known = answer()
    assert STRICT.complaint(known, known) == ""
    assert "cosine" in STRICT.complaint(answer(1), known)
    off = Answer(known.logits, known.probabilities + np.float32(0.01), known.image_embedding)
    assert "|Δprobability| 1.0e-02" in STRICT.complaint(off, known)
    fewer = Answer(known.logits[:2], known.probabilities[:2], known.image_embedding)
    assert "probabilities, expected" in STRICT.complaint(fewer, known)
    with np.errstate(invalid="ignore"):
        nothing = Answer(known.logits, known.probabilities, np.zeros(8, np.float32))
        assert "nan" in STRICT.complaint(nothing, known)


def test_a_question_lies_in_memory_as_the_scan_did(phantoms: Path, tmp_path: Path) -> None:
    volume = read_volume(phantoms / "ct2.nii.gz")
    again = Question.keep(volume, tmp_path / "a.npy").volume()
    np.testing.assert_array_equal(again.voxels, volume.voxels)
    assert [abs(s) for s in again.voxels.strides] == [abs(s) for s in volume.voxels.strides]
    assert (again.spacing_mm, again.rescale) == (volume.spacing_mm, volume.rescale)


def test_clients_take_turns_with_the_questions(
    server: EmbeddedTriton, phantoms: Path, tmp_path: Path
) -> None:
    questions = tuple(
        Question.keep(read_volume(phantoms / f"ct{n}.nii.gz"), tmp_path / f"{n}.npy", prompts)
        for n, prompts in enumerate(((), (prompts_for("Emphysema"),)))
    )
    done: list[int] = []
    with Worker(Connection(server.grpc_url)) as worker:
        asked = worker.ask(ClosedLoop(questions, 2, 5, 60, STRICT), done.append)
        expected = tuple(next(a.answer for a in asked if a.question == number) for number in (0, 1))
        late = worker.ask(ClosedLoop(questions, 3, 9, 0.0, STRICT, expected))
        wrong = worker.ask(ClosedLoop(questions[:1], 1, 1, 0.0, STRICT, (late[0].answer[::-1],)))
    assert len(asked) == sum(done) == 5
    assert sorted(each.question for each in asked) == [0, 0, 0, 1, 1]
    assert len(late) == 3  # one for each client, however short the time
    assert {each.complaint for each in late} == {""}
    assert wrong[0].complaint
    ends = [Asked(0, float(n), n + 2.0, "", b"", 0, "grpc", "r") for n in range(2)]
    assert per_s(ends) == pytest.approx(2 / 3)


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
        found = [{"seq_id": i, "qsl_idx": scan, "data": "00"} for i, scan in enumerate(entries)]
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


def test_statistics_are_differences_over_all_versions() -> None:
    response = service_pb2.ModelStatisticsResponse
    before = read_statistics(response(model_stats=[statistics(2)]))
    both = [statistics(5), statistics(3, "2"), service_pb2.ModelStatistics(name="idle")]
    spent = difference(read_statistics(response(model_stats=both)), before)
    assert set(spent) == {"ctclip_vision"}
    assert spent["ctclip_vision"].figures() == {
        "requests": 6, "executions": 6, "mean_batch": 4.0, "total_ms": 1.0, "queue_ms": 2.0,
        "compute_input_ms": 3.0, "compute_infer_ms": 4.0, "compute_output_ms": 5.0,
    }  # fmt: skip
    assert Spent().batch == 0


def test_memory_and_seconds_of_a_process_and_its_children() -> None:
    alone = sum(process_memory(os.getpid()).values())
    code = (
        "block = bytearray(b'x' * 300_000_000); sum(range(3_000_000)); print('', flush=True); "
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
    assert both - alone > 250_000_000
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
    assert peaks.bytes == {"a": 9, "b": 1}
    assert peaks.gib("c") is None
    assert peaks.gib("a") == 9 / 2**30


def test_questions_to_a_server_that_hangs_end() -> None:
    """Statistics are asked between the rows."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            Raw(Server(f"127.0.0.1:{taken.getsockname()[1]}", 1)) as raw,
            pytest.raises((Unavailable, DeadlineExceeded)),
        ):
            raw.statistics()


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
