"""`ctclip bench serve` against a real Triton and the real LoadGen: the verdict decides."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tritonclient.utils import triton_to_np_dtype

from ctclip_bench.cli.bench.serve import GONE
from ctclip_bench.load import serve
from ctclip_bench.load.session import Session
from ctclip_bench.parity.step_process import import_in_background
from ctclip_bench.results.result import Parity
from ctclip_client import Client, read_volume
from ctclip_client.cli.program import main
from ctclip_client.contract import PATHOLOGIES
from ctclip_client.release.digest import sha256
from ctclip_client.transport.connection import Connection
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton
from ctclip_server.releases.control import Control

from ..conftest import Golden
from ..nifti_files import save_volume
from ..nobody import nobody_reads
from .result_files import table, written

NAME = "patient-0815.nii.gz"
LITTLE = ("--clients", "1", "--requests", "3", "--scenario", "SingleStream")
Bench = Callable[..., int]


@pytest.fixture(scope="module")
def scans(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    save_volume(folder / NAME, chest_phantom(golden.geometry, 5))
    save_volume(folder / "another.nii", chest_phantom(golden.geometry, 6))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "not" / "there" / "yet"


@pytest.fixture
def bench(repository: Path, scans: Path, out: Path) -> Bench:
    """The command's exit code; the scans of this file, unless flags say otherwise."""

    def run(*flags: str, repository: Path = repository) -> int:
        base = ["bench", "--repository", str(repository), "--scans", str(scans)]
        try:
            return main([*base, "--out", str(out), *flags])
        except SystemExit as stopped:
            return int(str(stopped.code))

    return run


@pytest.fixture
def running(bench: Bench, server: EmbeddedTriton) -> Bench:
    """The same of a server that runs already."""
    return lambda *flags, **more: bench("--url", server.grpc_url, *flags, **more)


def spoil_findings(repository: Path, *, record: bool) -> None:
    """Swap the sentences of the findings model; with `record`, claim that it was always so."""
    path = repository / "ctclip_findings" / "1" / "model.onnx"
    proto = onnx.load(path)
    bank = max(proto.graph.initializer, key=lambda i: len(i.raw_data))
    values = onnx.numpy_helper.to_array(bank)
    bank.CopyFrom(onnx.numpy_helper.from_array(values[::-1, ::-1].copy(), bank.name))
    onnx.save(proto, path)
    if record:
        file = path.parent / "provenance.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"file_sha256": sha256(path)}))


# --- a server that is right ---


def test_a_running_server_is_judged_and_then_measured(
    running: Bench,
    server: EmbeddedTriton,
    golden: Golden,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--scenario", "SingleStream,Offline,Server", "--json"]
    flags += ["--clients", "1,3", "--requests", "4", "--limit-s", "2"]
    flags += ["--against", str(golden.checkpoint), "--text-model", str(golden.text_model)]
    import_in_background()  # its socket's path would be too long in the folder that follows
    temporary = tmp_path / "temporary"  # other tests use the system's own meanwhile
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(serve, "_PROBES", 2)
    monkeypatch.setattr(serve, "_FEWEST", 5)
    assert running(*flags) == 0
    assert list(temporary.glob("ctclip-*")) == []
    printed = capsys.readouterr().out
    found = written(out)
    assert json.loads(printed) == found
    # A file's name may name a patient, or whose checkpoint it is.
    assert NAME not in printed
    assert golden.checkpoint.name not in printed
    assert server.grpc_url not in printed
    assert (found["kind"], found["passed"]) == ("serve", True)
    assert [each["verdict"] for each in found["verdicts"]] == ["PASS", "PASS"]
    assert found["verdicts"][0]["against"] == "PyTorch fp32"
    assert "not those of the MLPerf rules" in found["plan"]["counts"]
    assert found["subject"]["provenance"]["checkpoint"]["sha256"] == sha256(golden.checkpoint)
    assert found["subject"]["server"]["models"]["ctclip_vision"]["backend"] == "onnxruntime"
    single, offline, poisson = table(found, "scenarios")
    for row, name in ((single, "SingleStream"), (offline, "Offline"), (poisson, "Server")):
        said = row["figures"]["loadgen"]
        assert row["name"] == said["Scenario"] == name
        assert row["parity"]["verdict"] == "PASS"
        assert (said["Mode"], said["Result is"]) == (
            "PerformanceOnly",
            row["figures"]["loadgen_says"],
        )
    # Two clocks on the same four answers: LoadGen's begins earlier and ends later.
    said = single["figures"]["loadgen"]
    assert single["times_ms"]["n"] == said["min_query_count"] == 4
    assert single["times_ms"]["p99"] == pytest.approx(
        said["99.00 percentile latency (ns)"] / 1e6, rel=1e-5
    )
    assert single["figures"]["loadgen_says"] == "INVALID"  # our own counts
    assert offline["figures"]["loadgen"]["Samples per second"] > 0
    assert (offline["figures"]["queries"], offline["settings"]["at_once"]) == (4, 3)
    rates = [each["rate_per_s"] for each in poisson["figures"]["probes"] if each["within"]]
    assert poisson["figures"]["queries_per_s"] == max(rates)
    assert poisson["figures"]["loadgen"]["target_latency (ns)"] == 2e9
    one, three = table(found, "clients")
    assert (one["settings"]["clients"], three["settings"]["clients"]) == (1, 3)
    assert "speed_of_one" not in one["figures"]
    ratio = three["figures"]["scans_per_s"] / one["figures"]["scans_per_s"]
    assert three["figures"]["speed_of_one"] == pytest.approx(ratio, rel=1e-3)
    vision = [row for row in table(found, "inside Triton") if row["name"] == "ctclip_vision"]
    assert [row["figures"]["requests"] for row in vision] == [4, 4]
    assert {"queue_ms", "compute_infer_ms", "total_ms"} <= set(vision[0]["figures"])


# --- answers that are wrong ---


@pytest.mark.parametrize("record", [True, False])
def test_a_swapped_model_is_not_timed(
    record: bool, running: Bench, copied: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_findings(copied, record=record)
    assert running(*LITTLE, repository=copied) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("PARITY FAIL")
    file = "ctclip_findings: model.onnx is not the file that provenance.json"
    assert ("|Δprobability|" if record else file) in printed
    assert "p99" not in printed
    found = written(out)
    assert (found["passed"], found["rows"]) == (False, [])
    assert next(out.iterdir()).stem.endswith("-FAILED")


def test_another_answer_under_load_fails_the_run(
    running: Bench, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The judged answers change places: every timed one is then another scan's."""
    judge = Session.judge

    def swapping(self: Session, answers: list[Any]) -> Parity:
        found = judge(self, answers)
        assert found.verdict == "PASS"
        answers.reverse()
        return found

    monkeypatch.setattr(Session, "judge", swapping)
    assert running(*LITTLE) == 1
    assert "FAIL against the judged answers, every answer under load" in capsys.readouterr().out
    found = written(out)
    assert not found["passed"]
    assert [row["parity"]["verdict"] for row in table(found, "scenarios")] == ["FAIL"]
    assert "6 answers do not repeat it" in found["verdicts"][1]["reason"]


# --- a server that goes away ---


@pytest.mark.slow
def test_a_server_that_is_killed_ends_the_run(
    bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LoadGen would wait for ever for the answer that does not come. What was measured is kept."""
    test = serve.Measurement._test

    def killed_soon(self: serve.Measurement, *arguments: Any) -> Any:
        triton = self._session.process_id
        assert triton is not None
        threading.Timer(0.3, os.kill, (triton, signal.SIGKILL)).start()
        return test(self, *arguments)

    monkeypatch.setattr(serve.Measurement, "_test", killed_soon)
    with nobody_reads():
        assert bench("--clients", "1", "--requests", "100000", "--limit-s", "1") == 4
    (path,) = out.iterdir()
    assert str(path) in capsys.readouterr().err
    assert path.stem.endswith("-FAILED")
    assert "127.0.0.1" not in path.read_text()
    found = written(out)
    assert found["subject"]["server"]["kind"] == "embedded"
    first, one = table(found, "clients")
    assert (first["name"], first["times_ms"]["n"]) == ("first answer after ready", 1)
    assert first["figures"]["of_later_ones"] > 0
    assert one["times_ms"]["n"] > 1
    assert one["figures"]["peak_gib"] > 0.05
    (row,) = table(found, "scenarios")
    assert row["name"] == "SingleStream"
    assert row["not_run"].startswith("Unavailable ended ")


def test_a_dead_server_is_said_at_once(
    bench: Bench, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        assert bench("--url", url) == 4
    assert f"{url}: no Triton answers there" in capsys.readouterr().err
    assert list(out.iterdir()) == []


# --- what is asked for ---


def test_numbers_do_not_go_under_a_wrong_name(
    running: Bench, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running(*LITTLE, "--config-name", "openvino") == 2
    assert "runs it on onnxruntime; config openvino" in capsys.readouterr().err
    file = copied / "ctclip_check" / "1" / "provenance.json"
    content = json.loads(file.read_text())
    content["release"]["release"] = "feedfeedfeedfeed"
    file.write_text(json.dumps(content))
    assert running(*LITTLE, repository=copied) == 2
    assert ", expected feedfeedfeedfeed." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--url", "localhost"], "--url: got 'localhost', expected host:port."),
        (["--limit-s", "301"], "expected at most 300 on a CPU"),
        (["--variations", "1"], "Leave one out"),
        (["--out", __file__], "--out"),
        (["--scans", "/nowhere"], "is not a folder"),
        (["--repository", "/nowhere"], "/nowhere"),
        (["--clients", "a"], "argument --clients: got"),
        (["--requests", "0"], "argument --requests: got"),
        (["--limit-s", "0"], "argument --limit-s: got"),
        (["--scenario", "Burst"], "expected some of SingleStream,Offline,Server"),
        *(([flag, "2"], f"{flag} is gone: {why}") for flag, why in GONE.items()),
    ],
)
def test_usage(
    flags: list[str], message: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*flags) == 2
    assert message in capsys.readouterr().err


def test_perf_analyzer_gets_requests_that_the_server_answers(
    running: Bench,
    server: EmbeddedTriton,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "for perf_analyzer"
    assert running("--perf-analyzer", str(folder), "--requests", "7") == 0
    (path,) = folder.iterdir()
    one, four = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    assert one[:7] == [
        "perf_analyzer", "-m", "ctclip_pathologies", "-i", "grpc", "-u", server.grpc_url,
    ]  # fmt: skip
    assert one[one.index("--input-data") + 1] == str(path)
    assert {"--request-count=7", "--concurrency-range=1"} <= set(one)
    assert "--concurrency-range=4" in four
    requests = json.loads(path.read_text())["data"]
    types = {tensor.name: triton_to_np_dtype(tensor.dtype) for tensor in PATHOLOGIES.inputs}
    with Control(Connection(server.grpc_url)) as control, Client(server.grpc_url) as client:
        for request, file in zip(requests, sorted(scans.iterdir()), strict=True):
            inputs = {}
            for name, entry in request.items():
                values = np.frombuffer(base64.b64decode(entry["content"]["b64"]), types[name])
                inputs[name] = values.reshape(entry["shape"])
            answer = control.infer(PATHOLOGIES.name, None, inputs)
            known = client.pathologies(read_volume(file))
            np.testing.assert_allclose(answer["LOGITS"][0], known.logits, rtol=1e-5)
