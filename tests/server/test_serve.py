"""`ctclip serve` as a process of its own: its line, its signals, its exit codes."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ctclip_client import Client
from ctclip_client.errors import CTClipError, ServerError
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.cli import serve as serve_command
from ctclip_server.embedded import server as embedded
from ctclip_server.embedded.server import RestartableError

READY = re.compile(
    r"ready grpc=127\.0\.0\.1:(\d+) http=127\.0\.0\.1:(\d+) metrics=127\.0\.0\.1:(\d+)\n"
)


@pytest.fixture
def repository(tmp_path, tiny):
    tiny["add"]("add", 1.0).write(tmp_path / "repository")
    return tmp_path / "repository"


def _triton_of(fetch, port: str) -> int:
    """Triton's process id: the grandchild of the command, by way of its keeper."""
    identity = re.search(r"ctclip-[0-9a-f]+", fetch(f"127.0.0.1:{port}", "/v2"))[0]
    out = subprocess.run(
        ["pgrep", "-f", f"tritonserver --id={identity} "],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    return int(out.stdout.split()[0])


@pytest.mark.parametrize(
    "ending", [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_one_line_when_ready_and_a_clean_end_by_signal(repository, serve, traces, fetch, ending):
    number, code = ending
    process = serve("--repository", repository)
    line = process.stdout.readline()
    match = READY.fullmatch(line)
    assert match
    identity = traces.of(_triton_of(fetch, match[2]))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert traces.left(identity) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_during_the_start_ends_it_cleanly(repository, serve, number):
    process = serve("--repository", repository)
    assert "starting Triton" in process.stderr.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (0 if number == signal.SIGTERM else 130)
    assert out == ""
    assert "Traceback" not in err


def test_ctrl_c_ends_it_where_a_script_started_it_with_an_ampersand(repository, serve):
    """A shell without job control starts such commands with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = serve("--repository", repository)
    finally:
        signal.signal(signal.SIGINT, before)
    assert READY.fullmatch(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "soon"])
def test_a_time_to_start_that_is_none_is_a_usage_error(repository, serve, seconds):
    process = serve("--repository", repository, f"--startup-timeout-s={seconds}")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert f"--startup-timeout-s: got '{seconds}', expected seconds, more than 0" in err


def test_triton_dying_later_ends_it_with_4(repository, serve, fetch, tmp_path):
    log = tmp_path / "triton.log"
    process = serve("--repository", repository, "--log", log)
    match = READY.fullmatch(process.stdout.readline())
    os.kill(_triton_of(fetch, match[2]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "error: Triton ended (signal 9, SIGKILL)" in err
    assert str(log) in err
    assert "Started GRPCInferenceService" in log.read_text()


@pytest.mark.parametrize("case", ["missing", "empty", "no weights"])
def test_a_repository_that_was_never_exported_exits_with_2(repository, serve, case):
    if case == "missing":
        repository = repository / "nowhere"
    elif case == "empty":
        (repository / "add" / "config.pbtxt").unlink()
    else:
        (repository / "add" / "1" / "model.onnx").rename(repository / "add" / "1" / ".gitkeep")
    process = serve("--repository", repository)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert "ctclip export" in err
    assert "Traceback" not in err


def test_a_repository_that_does_not_load_exits_with_2_and_the_reason(repository, serve, tiny):
    config = repository / "add" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [ 2 ]", "dims: [ 3 ]"))
    process = serve("--repository", repository)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert "error: 'add' does not load: tensor 'X'" in err
    assert len(err.splitlines()) < 6


def test_a_model_whose_python_process_died_is_back_at_the_same_port(golden, exported_in, serve):
    """A shape of more elements than 64 bits count passes Triton 2.51 and ends the process."""
    process = serve("--repository", exported_in("fp32").repository)
    port = READY.fullmatch(process.stdout.readline())[1]
    volume = chest_phantom(golden.geometry)
    with Client(f"127.0.0.1:{port}") as client:
        before = client.pathologies(volume)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            message = service_pb2.ModelInferRequest(model_name="ctclip_pathologies")
            for name, dtype, shape, data in (
                ("VOLUME", "INT16", (2**62, 4, 4), b""),
                ("SPACING", "FP64", (3,), np.ones(3)),
                ("RESCALE", "FP32", (2,), np.ones(2, np.float32)),
            ):
                message.inputs.add(name=name, datatype=dtype, shape=shape)
                message.raw_input_contents.append(bytes(data))
            with pytest.raises(grpc.RpcError, match="not healthy"):
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60)
        after = _pathologies_again(client, volume)
    np.testing.assert_array_equal(after.logits, before.logits)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ""
    assert "WARNING: The Python process of a model has died. Starting Triton again" in err


def _line_with(process, words):
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"serve ended without saying '{words}'")


def test_a_triton_that_crashed_is_back_at_the_same_port(
    golden, exported_in, serve, fetch, tmp_path
):
    log = tmp_path / "triton.log"
    process = serve("--repository", exported_in("fp32").repository, "--log", log)
    match = READY.fullmatch(process.stdout.readline())
    volume = chest_phantom(golden.geometry)
    with Client(f"127.0.0.1:{match[1]}") as client:
        before = client.pathologies(volume)
        os.kill(_triton_of(fetch, match[2]), signal.SIGSEGV)
        said = _line_with(process, "WARNING")  # it answers while it writes down its stack
        # On a machine without a GPU the log has complaints from the start, which are no reason.
        assert "WARNING: Triton ended (signal 11, SIGSEGV). Starting Triton again, at" in said
        after = _pathologies_again(client, volume)
    np.testing.assert_array_equal(after.logits, before.logits)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ""
    _, crashed, again = log.read_text().split("Started GRPCInferenceService")
    assert "Signal (11) received" in crashed
    assert "Signal (11) received" not in again


def test_a_triton_that_crashes_again_and_again_ends_it_with_4(repository, serve, fetch, traces):
    process = serve("--repository", repository)
    http_port = READY.fullmatch(process.stdout.readline())[2]
    numbers = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE)
    for number in numbers:
        _line_with(process, "every model is ready")
        triton = _triton_of(fetch, http_port)
        identity = traces.of(triton)
        os.kill(triton, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "error: Triton ended (signal 8, SIGFPE). It is not started again" in err
    assert "3 times in a row within 30 s of being ready" in err
    assert "Traceback" not in err
    assert traces.left(identity) == []


class _Scripted:
    """Stands for a Triton: one word for each time that it is started."""

    grpc_url = http_url = metrics_url = "127.0.0.1:1"
    repository = Path("nowhere")
    startup_timeout_s = 1.0

    def __init__(self, *words):
        self.words = list(words)

    def __call__(self, _, **options):
        assert "startup_timeout_s" in options
        return self

    def __enter__(self):
        if self.words[0] == "lost while starting":
            self.wait()

    def __exit__(self, *error):
        pass

    def wait(self):
        if self.words.pop(0) == "stopped":
            raise KeyboardInterrupt
        raise RestartableError("Lost.")


@pytest.mark.parametrize(
    ("soon_s", "words", "given_up"),
    [
        (30, ["lost", "lost", "stopped"], False),
        (30, ["lost", "lost while starting", "lost"], True),
        (0, [*["lost"] * 9, "stopped"], False),
        (0, [*["lost while starting"] * 3], True),
    ],
)
def test_it_gives_up_only_when_losses_follow_closely(monkeypatch, capsys, soon_s, words, given_up):
    triton = _Scripted(*words)
    monkeypatch.setattr(embedded, "EmbeddedTriton", triton)
    monkeypatch.setattr(serve_command, "SOON_S", soon_s)
    parser = argparse.ArgumentParser()
    serve_command.configure(parser)
    with pytest.raises(ServerError if given_up else KeyboardInterrupt):
        serve_command.run(parser.parse_args(["--repository", "nowhere"]))
    assert triton.words == []
    assert capsys.readouterr().err.count("WARNING: Lost.") == len(words) - 1


def _pathologies_again(client, volume):
    deadline = time.monotonic() + 120
    while True:
        try:
            return client.pathologies(volume)
        except CTClipError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
