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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import triton_to_np_dtype

from ctclip_bench.load.answers import Answer, Question, Repeat
from ctclip_bench.load.judged import Judged
from ctclip_bench.load.loadgen import LoadGenJob
from ctclip_bench.load.serve import Measurement
from ctclip_bench.load.session import Session
from ctclip_bench.load.worker import Worker
from ctclip_client import Client, read_volume
from ctclip_client.cli.program import main
from ctclip_client.contract import PATHOLOGIES
from ctclip_client.errors import ServiceError
from ctclip_client.release.digest import sha256
from ctclip_client.transport.connection import Connection
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..nifti_files import save_volume
from ..nobody import nobody_reads

NAME = "patient-0815.nii.gz"
LITTLE = ("--clients", "1", "--requests", "3", "--scenario", "SingleStream")
ANY = Repeat(cosine=-1, probability=1)
SHM = Path("/dev/shm")  # noqa: S108 (Linux's own)


@pytest.fixture(scope="module")
def scans(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    save_volume(folder / NAME, chest_phantom(golden.geometry, 5))
    save_volume(folder / "another.nii", chest_phantom(golden.geometry, 6))
    return folder


def bench(repository: Path, scans: Path, out: Path, *flags: str) -> list[str]:
    base = ["bench", "--repository", str(repository), "--scans", str(scans), "--out", str(out)]
    return [*base, *flags]


def written(out: Path) -> dict[str, Any]:
    (path,) = out.iterdir()
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def table(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["table"] == name]


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


def left_behind(process_id: int) -> list[Path]:
    mine = f"ctclip-client-{process_id}-"
    return [path for path in SHM.iterdir() if path.name.startswith(mine)]


# --- a server that is right ---


def test_a_running_server_is_judged_and_then_measured(
    server: EmbeddedTriton,
    repository: Path,
    golden: Golden,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "not" / "there" / "yet"
    flags = ["--url", server.grpc_url, "--scenario", "SingleStream,Offline,Server", "--json"]
    load = ["--clients", "1,3", "--requests", "4", "--limit-s", "5"]
    load += ["--against", str(golden.checkpoint), "--text-model", str(golden.text_model)]
    temporary = tmp_path / "temporary"  # other tests use the system's own meanwhile
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert main(bench(repository, scans, out, *flags, *load)) == 0
    assert list(temporary.glob("ctclip-*")) == []
    printed = capsys.readouterr().out
    found = written(out)
    assert json.loads(printed) == found
    # A file's name may name a patient, or whose checkpoint it is.
    assert NAME not in printed
    assert golden.checkpoint.name not in printed
    assert server.grpc_url not in printed
    assert found["kind"] == "serve"
    assert found["passed"]
    assert [each["verdict"] for each in found["verdicts"]] == ["PASS", "PASS"]
    assert found["verdicts"][0]["against"] == "PyTorch fp32"
    assert "not those of the MLPerf rules" in found["plan"]["counts"]
    assert found["plan"]["device"] == "cpu"
    assert found["subject"]["provenance"]["checkpoint"]["sha256"] == sha256(golden.checkpoint)
    assert found["subject"]["server"]["models"]["ctclip_vision"]["backend"] == "onnxruntime"
    assert all(row["parity"]["verdict"] == "PASS" for row in table(found, "scenarios"))
    single, offline, poisson = table(found, "scenarios")
    assert [row["name"] for row in (single, offline, poisson)] == [
        "SingleStream", "Offline", "Server",
    ]  # fmt: skip
    assert single["times_ms"]["n"] == single["figures"]["queries"] == 4
    said = single["figures"]["loadgen"]
    assert (said["Scenario"], said["Mode"]) == ("SingleStream", "PerformanceOnly")
    assert said["Result is"] == single["figures"]["loadgen_says"] == "INVALID"  # our own counts
    assert said["min_query_count"] == 4
    # Two clocks on the same four answers: LoadGen's begins earlier and ends later.
    said = single["figures"]["loadgen"]["99.00 percentile latency (ns)"]
    assert single["times_ms"]["p99"] == pytest.approx(said / 1e6, rel=1e-5)
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


def test_a_swapped_model_is_not_timed(
    server: EmbeddedTriton,
    copied: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil_findings(copied, record=True)
    out = tmp_path / "out"
    assert main(bench(copied, scans, out, *LITTLE, "--url", server.grpc_url)) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("PARITY FAIL")
    assert "|Δprobability|" in printed
    assert "p99" not in printed
    found = written(out)
    assert (found["passed"], found["verdicts"][0]["verdict"]) == (False, "FAIL")
    assert found["rows"] == []
    assert next(out.iterdir()).stem.endswith("-FAILED")


def test_a_file_that_nobody_judged_is_not_timed(
    server: EmbeddedTriton,
    copied: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil_findings(copied, record=False)
    out = tmp_path / "out"
    assert main(bench(copied, scans, out, *LITTLE, "--url", server.grpc_url)) == 1
    printed = capsys.readouterr().out
    assert "ctclip_findings: model.onnx is not the file that provenance.json" in printed
    assert "p99" not in printed


def test_another_answer_under_load_fails_the_run(
    server: EmbeddedTriton,
    repository: Path,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The judged answers change places: every timed one is then another scan's."""
    judge = Session.judge

    def swapped(*arguments: Any) -> Judged:
        found = judge(*arguments)
        assert found.passed
        return replace(found, answers=found.answers[::-1])

    monkeypatch.setattr(Session, "judge", swapped)
    out = tmp_path / "out"
    assert main(bench(repository, scans, out, *LITTLE, "--url", server.grpc_url)) == 1
    assert "FAIL against the judged answers, every answer under load" in capsys.readouterr().out
    found = written(out)
    assert not found["passed"]
    assert [row["parity"]["verdict"] for row in table(found, "scenarios")] == ["FAIL"]
    assert "6 answers do not repeat it" in found["verdicts"][1]["reason"]


# --- a server that goes away, a person who has enough ---


def test_a_server_that_is_killed_ends_the_run(
    repository: Path,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """LoadGen would wait for ever for the answer that does not come. What was measured is kept."""
    out = tmp_path / "out"
    test = Measurement._test

    def killed_soon(self: Measurement, *arguments: Any) -> Any:
        process_id = self.session.server.process_id
        assert process_id is not None
        threading.Timer(0.3, os.kill, (process_id, signal.SIGKILL)).start()
        return test(self, *arguments)

    monkeypatch.setattr(Measurement, "_test", killed_soon)
    flags = ["--clients", "1", "--requests", "100000", "--limit-s", "1"]
    with nobody_reads():
        assert main(bench(repository, scans, out, *flags)) == 4
    said = capsys.readouterr().err
    (path,) = out.iterdir()
    assert str(path) in said
    assert path.stem.endswith("-FAILED")
    assert "127.0.0.1" not in path.read_text()
    found = written(out)
    assert found["subject"]["server"]["kind"] == "embedded"
    first, one = table(found, "clients")
    assert first["name"] == "first answer after ready"
    assert first["times_ms"]["n"] == 1
    assert first["figures"]["of_later_ones"] > 0
    assert one["settings"]["clients"] == 1
    assert one["times_ms"]["n"] > 1
    assert one["figures"]["peak_gib"] > 0.05
    (row,) = table(found, "scenarios")
    assert row["name"] == "SingleStream"
    assert row["not_run"].startswith("Unavailable: ")


@pytest.mark.slow  # it interrupts the process that runs the tests
def test_an_interrupted_test_of_loadgen_leaves_nothing(
    server: EmbeddedTriton, phantoms: Path, tmp_path: Path
) -> None:
    """Ctrl-C comes while LoadGen waits in C++, inside of the other process."""
    question = Question.keep(read_volume(phantoms / "ct0.nii.gz"), tmp_path / "question.npy")
    job = LoadGenJob((question,), "SingleStream", tmp_path, ANY, queries=10**6, limit_s=60)
    answered = threading.Event()

    def interrupt() -> None:
        answered.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), Worker(Connection(server.grpc_url)) as worker:
        worker.ask(job, lambda _: answered.set())
    with pytest.raises(ProcessLookupError):
        os.kill(worker.process_id, 0)
    assert not left_behind(worker.process_id)


def test_a_process_that_dies_is_an_error(
    server: EmbeddedTriton, phantoms: Path, tmp_path: Path
) -> None:
    question = Question.keep(read_volume(phantoms / "ct0.nii.gz"), tmp_path / "question.npy")
    job = LoadGenJob((question,), "SingleStream", tmp_path, ANY, queries=10**6, limit_s=60)
    with (
        pytest.raises(ServiceError, match=r"died .*SIGKILL"),
        Worker(Connection(server.grpc_url)) as worker,
    ):
        worker.ask(job, lambda _: os.kill(worker.process_id, signal.SIGKILL))
    with pytest.raises(ProcessLookupError):
        os.kill(worker.process_id, 0)


def test_a_dead_server_is_said_at_once(
    repository: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(bench(repository, scans, tmp_path / "out", "--url", url)) == 4
    assert f"{url}: no Triton answers there" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


# --- what is asked for ---


def test_numbers_do_not_go_under_a_wrong_name(
    server: EmbeddedTriton,
    repository: Path,
    copied: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [*LITTLE, "--url", server.grpc_url]
    command = bench(repository, scans, tmp_path / "out", *flags)
    assert main([*command, "--config-name", "openvino"]) == 2
    assert "runs it on onnxruntime; config openvino" in capsys.readouterr().err
    assert main([*command, "--config-name", "nonsense"]) == 2
    assert "Variants that it has: gpu, openvino" in capsys.readouterr().err
    file = copied / "ctclip_check" / "1" / "provenance.json"
    content = json.loads(file.read_text())
    content["release"]["release"] = "feedfeedfeedfeed"
    file.write_text(json.dumps(content))
    assert main(bench(copied, scans, tmp_path / "out", *flags)) == 2
    assert ", expected feedfeedfeedfeed." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--against", "x.pt"], "go together"),
        (["--variations", "1"], "Leave one out"),
        (["--out", "{file}"], "--out"),
        (["--scans", "/nowhere"], "is not a folder"),
        (["--repository", "/nowhere"], "/nowhere"),
        (["--url", "localhost"], "--url: got 'localhost', expected host:port."),
        (["--limit-s", "301"], "expected at most 300 on a CPU"),
    ],
)
def test_usage(
    more: list[str],
    message: str,
    repository: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.touch()
    flags = [flag.format(file=file) for flag in more]
    assert main(bench(repository, scans, tmp_path / "out", *flags)) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--clients", "a"], "argument --clients: got"),
        (["--requests", "0"], "argument --requests: got"),
        (["--limit-s", "0"], "argument --limit-s: got"),
        (["--scenario", "Burst"], "expected some of SingleStream,Offline,Server"),
        (["--concurrency", "1,2"], "--concurrency is gone: it is --clients now"),
        (["--rate", "2"], "--scenario Server"),
        (["--level-s", "9"], "it is --limit-s now"),
        (["--batch", "2"], "ctclip bench graphs"),
        (["--texts", "2"], "ctclip bench growth"),
        (["--warmup", "2"], "--warmup is gone"),
    ],
)
def test_flags_that_cannot_be_and_flags_of_before(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--repository", "x", *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_old_flags_are_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "serve", "--help"])
    listed = capsys.readouterr().out
    assert "--clients" in listed
    assert "--concurrency" not in listed


def test_perf_analyzer_gets_requests_that_the_server_answers(
    server: EmbeddedTriton,
    repository: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "for perf_analyzer"
    flags = ["--perf-analyzer", str(folder), "--url", server.grpc_url, "--requests", "7"]
    assert main(bench(repository, scans, tmp_path / "out", *flags)) == 0
    (path,) = folder.iterdir()
    one, four = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    assert one[:7] == [
        "perf_analyzer", "-m", "ctclip_pathologies", "-i", "grpc", "-u", server.grpc_url,
    ]  # fmt: skip
    assert one[one.index("--input-data") + 1] == str(path)
    assert {"--request-count=7", "--concurrency-range=1"} <= set(one)
    assert "--concurrency-range=4" in four
    requests = json.loads(path.read_text())["data"]
    files = sorted(scans.iterdir())
    assert len(requests) == len(files)
    types = {tensor.name: tensor.dtype for tensor in PATHOLOGIES.inputs}
    with InferenceServerClient(server.grpc_url) as raw, Client(server.grpc_url) as client:
        for request, file in zip(requests, files, strict=True):
            inputs = []
            for name, entry in request.items():
                tensor = InferInput(name, entry["shape"], types[name])
                content = np.frombuffer(
                    base64.b64decode(entry["content"]["b64"]), triton_to_np_dtype(types[name])
                )
                inputs.append(tensor.set_data_from_numpy(content.reshape(entry["shape"])))
            answer = raw.infer("ctclip_pathologies", inputs)
            known = Answer.of(client.pathologies(read_volume(file)))
            np.testing.assert_allclose(answer.as_numpy("LOGITS")[0], known.logits, rtol=1e-5)
