"""The pieces of `ctclip bench`: load, percentiles, Triton's statistics, files. Nothing is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from ctclip_bench.load.agreement import embedding_difference
from ctclip_bench.load.figures import latency, make_level
from ctclip_bench.load.load import (
    Amount,
    Sample,
    Workload,
    closed_loop,
    open_loop,
    poisson_arrivals,
)
from ctclip_bench.load.memory import Usage, Watch, process_memory
from ctclip_bench.load.record import file_name, free_path, slug, write_json
from ctclip_bench.load.statistics import Spent, difference, read_statistics
from ctclip_client.errors import InvalidInput, Unavailable
from ctclip_export.parity.judge import BOUNDS


def test_percentiles_of_known_numbers() -> None:
    assert latency([float(value) for value in range(1, 101)]) == pytest.approx({
        "p50": 50.5, "p95": 95.05, "p99": 99.01, "mean": 50.5, "least": 1, "largest": 100,
    })  # fmt: skip


def test_a_level_counts_answers_errors_and_units() -> None:
    samples = [
        Sample(10.0, 10.1, parts_ms={"pack": 1.0}),
        Sample(10.1, 10.4, parts_ms={"pack": 3.0}, complaint="cosine 0.5"),
        Sample(10.2, 12.0, Unavailable("full")),
    ]
    level = make_level("level", {"clients": 2}, 4, samples, None)
    assert level.latency_ms is not None
    assert level.latency_ms["p50"] == pytest.approx(200)
    assert (level.n, level.errors, level.client_ms) == (2, {"Unavailable": 1}, {"pack": 2.0})
    assert level.throughput_per_s == pytest.approx(2 * 4 / 2.0)
    assert level.wrong == ["cosine 0.5"]


class Counter:
    """A server that notes what it is asked, and how many clients are connected."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.connected = 0
        self._lock = threading.Lock()

    @contextmanager
    def connect(self) -> Iterator[Callable[[int], int]]:
        with self._lock:
            self.connected += 1
        yield self._ask

    def _ask(self, number: int) -> int:
        with self._lock:
            self.asked.append(number)
        if number == 7:
            raise Unavailable("number seven")
        return number

    def work(self) -> Workload[int]:
        return Workload(self.connect, lambda number, answer: "odd" if answer % 2 else "")


def test_a_closed_loop_asks_each_number_once_after_the_warm_up() -> None:
    counter = Counter()
    warm: list[int] = []
    done: list[int] = []
    samples = closed_loop(
        counter.work(), 3, Amount(20, 2, 60), lambda: warm.append(len(counter.asked)), done.append
    )
    assert warm == [3 * 2]
    assert sorted(counter.asked[6:]) == list(range(20))
    assert (len(samples), len(done), counter.connected) == (20, 20, 3)
    assert [type(s.error).__name__ for s in samples if s.error] == ["Unavailable"]
    assert sum(s.complaint == "odd" for s in samples) == 9


def test_a_level_has_at_least_a_request_for_each_client_however_short() -> None:
    assert len(closed_loop(Counter().work(), 5, Amount(100, 0, 0.0), lambda: None)) == 5
    assert len(closed_loop(Counter().work(), 5, Amount(1, 0, 60), lambda: None)) == 5


def test_a_client_that_cannot_start_ends_the_level() -> None:
    @contextmanager
    def connect() -> Iterator[Callable[[int], int]]:
        raise Unavailable("nobody there")
        yield  # pragma: no cover

    work = Workload(connect, lambda _, __: "")
    with pytest.raises(Unavailable, match="nobody there"):
        closed_loop(work, 4, Amount(10, 1, 60))
    with pytest.raises(Unavailable, match="nobody there"):
        open_loop(work, 100, Amount(10, 1, 60))


def test_arrivals_do_not_wait_for_answers() -> None:
    counter = Counter()
    samples = open_loop(counter.work(), 200, Amount(30, 1, 60))
    arrivals = poisson_arrivals(200, 30)
    starts = np.sort([sample.start_s for sample in samples])
    np.testing.assert_allclose(starts - starts[0], arrivals - arrivals[0], atol=1e-9)
    assert all(sample.end_s >= sample.start_s for sample in samples)
    assert sorted(counter.asked[1:]) == list(range(30))


def test_gaps_between_arrivals_are_exponential() -> None:
    gaps = np.diff(poisson_arrivals(4.0, 20_000))
    assert gaps.mean() == pytest.approx(1 / 4, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 4, rel=0.05)


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
    assert spent["ctclip_vision"].as_json() == {
        "requests": 6, "executions": 6, "mean_batch": 4.0, "total_ms": 1.0, "queue_ms": 2.0,
        "compute_input_ms": 3.0, "compute_infer_ms": 4.0, "compute_output_ms": 5.0,
    }  # fmt: skip
    assert Spent().batch == 0


def test_answers_under_load_are_compared() -> None:
    bounds = BOUNDS["fp32"]
    known = np.eye(4, dtype=np.float32)[:2]
    assert embedding_difference(bounds, known, known) == ""
    assert "cosine" in embedding_difference(bounds, known[::-1], known)
    assert "shape" in embedding_difference(bounds, known[:1], known)
    with np.errstate(invalid="ignore"):
        assert "nan" in embedding_difference(bounds, np.zeros_like(known), known)


def test_memory_of_a_process_and_its_children() -> None:
    alone = process_memory(os.getpid())
    code = "import time; block = bytearray(b'x' * 300_000_000); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        both = process_memory(os.getpid())
        child.communicate(b"\n")
    assert alone is not None
    assert both is not None
    assert both - alone > 250_000_000
    assert process_memory(child.pid) is None


def test_memory_before_while_and_after() -> None:
    sizes = iter([5, 9, 7])
    seen = threading.Event()

    def read() -> int:
        size = next(sizes, 6)
        if size == 6:
            seen.set()
        return size

    with Watch(read, before_bytes=2, interval_s=0.001) as watch:
        seen.wait(10)
    assert watch.usage == Usage(2, 9, 6)
    with Watch(lambda: None) as nothing:
        pass
    assert nothing.usage is None


def content(**changes: Any) -> dict[str, Any]:
    machine = {"processor": "AMD EPYC 9654 96-Core", "gpu": {"name": "NVIDIA A100-SXM4-80GB"}}
    return {
        "passed": True, "date": "2026-01-31T10:00:00+00:00", "release": {"release": "0123abcd"},
        "config": "tensorrt", "machine": machine, "server": {"kind": "already running"}, **changes,
    }  # fmt: skip


def test_a_file_says_what_it_is_of() -> None:
    assert file_name(content()) == "2026-01-31-nvidia-a100-sxm4-80gb-0123abcd-tensorrt.json"
    embedded = content(server={"kind": "embedded"}, config="default", passed=False)
    assert file_name(embedded) == "2026-01-31-amd-epyc-9654-96-core-0123abcd-default-FAILED.json"
    assert file_name(content(), "parity").endswith("-tensorrt-parity.json")
    assert slug("  /..\\ ") == "unknown"


def test_files_are_whole_and_replace_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_json({"cosine": float("nan"), "list": [1.5, float("inf")]}, path)
    assert json.loads(path.read_text()) == {"cosine": None, "list": [1.5, None]}
    assert free_path(path).name == "a-2.json"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]
    with pytest.raises(InvalidInput, match="cannot write"):
        write_json({}, path / "below" / "a.json")
