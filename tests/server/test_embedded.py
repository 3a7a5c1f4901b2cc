"""Starting and stopping the real Triton: what it leaves behind and what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from ctclip_client.errors import DeadlineExceeded, InvalidInput, ServerError, Unavailable
from ctclip_server import EmbeddedTriton
from ctclip_server.embedded import diagnosis
from ctclip_server.embedded import server as embedded
from ctclip_server.embedded.keeper import remove_shared_memory
from ctclip_server.embedded.ports import resolve

from .conftest import add_constant, write_python_model


@pytest.fixture
def repository(tmp_path):
    add_constant("add", 1.0).write(tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def taken_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def test_its_services_answer_for_the_file_that_lies_there(repository, caller, fetch, capfd):
    """Explicit control loads a swapped one."""
    with EmbeddedTriton(repository, startup_timeout_s=120, model_control="explicit") as server:
        assert server.is_running()
        for url, path in ((server.http_url, "/v2/health/ready"), (server.metrics_url, "/metrics")):
            assert fetch(url, path) is not None
        ask = caller(server)
        zeros = np.zeros((1, 2), np.float32)
        np.testing.assert_array_equal(ask("add", X=zeros), zeros + 1)
        add_constant("add", 41.0).write(repository)
        ask.client.load_model("add")
        np.testing.assert_array_equal(ask("add", X=zeros), zeros + 41)
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")


def test_a_stopped_server_leaves_nothing_and_starts_again(repository, traces):
    server = EmbeddedTriton(repository, startup_timeout_s=120)
    server.start()
    identity = traces.of(server.process_id)
    assert traces.left(identity)
    with pytest.raises(InvalidInput, match="started already"):
        server.start()
    server.stop()
    server.stop()
    assert not server.is_running()
    assert server.process_id is None
    assert traces.left(identity) == []
    with server:
        assert server.is_running()


def test_a_named_config_is_used(repository, caller):
    variant = add_constant("add", 1.0, file="other.onnx").config()
    configs = repository / "add" / "configs"
    configs.mkdir()
    (configs / "other.pbtxt").write_text(variant + 'default_model_filename: "other.onnx"\n')
    (repository / "add" / "1" / "other.onnx").write_bytes(add_constant("add", 7.0).graph())
    with EmbeddedTriton(repository, config_name="other", startup_timeout_s=120) as server:
        got = caller(server)("add", X=np.zeros((1, 2), np.float32))
        np.testing.assert_array_equal(got, np.full((1, 2), 7.0, np.float32))


@pytest.mark.parametrize("name", ["grpc_port", "http_port", "metrics_port"])
def test_a_taken_port_is_named(repository, taken_port, name):
    with pytest.raises(Unavailable, match=f"Port {taken_port} is taken") as error:
        EmbeddedTriton(repository, **{name: taken_port}).start()
    assert "0 takes a free one" in error.value.remedy


@pytest.mark.parametrize("service", [0, 2], ids=["grpc", "metrics"])  # the first and the last
def test_a_port_lost_before_triton_bound_it_is_replaced(
    repository, taken_port, monkeypatch, service
):
    choose = embedded.choose_ports
    chosen = []

    def lose_the_first(address, asked):
        ports = list(choose(address, asked))
        if not chosen:
            ports[service] = taken_port
        chosen.append(tuple(ports))
        return tuple(ports)

    monkeypatch.setattr(embedded, "choose_ports", lose_the_first)
    with EmbeddedTriton(repository, startup_timeout_s=120) as server:
        urls = (server.grpc_url, server.http_url, server.metrics_url)
        assert [int(url.split(":")[1]) for url in urls] == list(chosen[1])
    assert len(chosen) == 2


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"grpc_port": -1}, "grpc port: got -1"),
        ({"grpc_port": 65536}, "grpc port: got 65536"),
        ({"grpc_port": 8001, "http_port": 8001}, "three different"),
        ({"host": "192.0.2.1"}, r"cannot listen on 192\.0\.2\.1"),
        ({"host": "no.such.host.invalid"}, "host"),
        ({"log": "/nowhere/log"}, "log: cannot write"),
        ({"config_name": "othr"}, r"no model of .* has configs/othr\.pbtxt"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_the_start(repository, options, cause):
    with pytest.raises(InvalidInput, match=cause):
        EmbeddedTriton(repository, **options).start()


def test_a_host_beyond_loopback_is_warned_about(capfd):
    assert resolve("0.0.0.0") == "0.0.0.0"  # noqa: S104
    warning = capfd.readouterr().err
    assert "WARNING" in warning
    assert "known vulnerabilities" in warning
    assert resolve("localhost") == "127.0.0.1"
    assert capfd.readouterr().err == ""


def test_an_ensemble_of_missing_models_is_named(repository):
    (repository / "both" / "1").mkdir(parents=True)
    tensors = '{ name: "X", data_type: TYPE_FP32, dims: [ 2 ] }'
    (repository / "both" / "config.pbtxt").write_text(
        f'platform: "ensemble"\ninput [ {tensors} ]\noutput [ {tensors.replace("X", "Y")} ]\n'
        'ensemble_scheduling { step [ { model_name: "ghost", model_version: -1, '
        'input_map { key: "X", value: "X" }, output_map { key: "Y", value: "Y" } } ] }\n'
    )
    with pytest.raises(InvalidInput, match=r"'both' does not load: .* ghost"):
        EmbeddedTriton(repository, startup_timeout_s=120).start()


def test_too_little_shared_memory_has_a_remedy_of_its_own(repository):
    room = os.statvfs("/dev/shm")  # noqa: S108
    too_much = 2 * room.f_blocks * room.f_frsize
    size = f"--backend-config=python,shm-default-byte-size={too_much}"
    with pytest.raises(InvalidInput, match="No space left on device") as caught:
        EmbeddedTriton(repository, extra_arguments=[size]).start()
    assert "enlarge its /dev/shm" in caught.value.remedy


def _never_ready(repository):
    """Add a model that loads for longer than any machine, however slow, gets time for."""
    write_python_model(
        repository,
        "slow",
        "import time\n\n\nclass TritonPythonModel:\n"
        "    def initialize(self, args):\n        time.sleep(600)\n",
    )


def test_too_little_time_is_said_and_leaves_nothing(repository, traces, monkeypatch):
    monkeypatch.setattr(embedded.secrets, "token_hex", lambda _: "0f7e57")
    _never_ready(repository)
    server = EmbeddedTriton(repository, startup_timeout_s=5)
    with pytest.raises(DeadlineExceeded, match=r"within 5 s"):
        server.start()
    assert traces.left("ctclip-0f7e57") == []


def test_triton_dying_later_is_told_with_the_reason(repository, traces, monkeypatch):
    """What it complained of before it was ready is none: on most machines, that it has no GPU."""
    nothing = re.compile("(?!)")
    monkeypatch.setattr(diagnosis, "_HARMLESS", nothing)
    with EmbeddedTriton(repository, startup_timeout_s=120) as server:
        identity = traces.of(server.process_id)
        os.kill(server.process_id, signal.SIGKILL)
        with pytest.raises(ServerError, match=r"\(signal 9, SIGKILL\)\. "):
            server.wait()
        assert not server.is_running()
    assert traces.left(identity) == []


def test_the_lack_of_a_gpu_is_no_reason():
    noise = (
        'E1125 14:51:17.886998 28324 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        "Error: Failed to initialize NVML\n"
        'E1125 14:51:18.334123 28324 ensemble_scheduler.cc:1468] "unable to create stream for '
        'ctclip_zero_shot: CUDA driver version is insufficient for CUDA runtime version"\n'
    )
    reason = 'E1125 14:51:19.000000 28324 server.cc:1] "unable to create stream for a: no memory"\n'
    assert diagnosis.diagnose(noise).errors == ()
    assert diagnosis.diagnose(reason + noise).errors == (
        "unable to create stream for a: no memory",
    )


def test_a_killed_parent_takes_triton_with_it(repository, traces):
    script = (
        "import sys, time\n"
        "from ctclip_server import EmbeddedTriton\n"
        "with EmbeddedTriton(sys.argv[1]) as server:\n"
        "    print(server.process_id, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(repository)], stdout=subprocess.PIPE, text=True
    ) as parent:
        identity = traces.of(int(parent.stdout.readline()))
        assert traces.left(identity)
        parent.kill()
    assert traces.wait_until_gone(identity) == []


def test_outside_a_virtual_environment_the_stub_sees_what_the_caller_sees(repository):
    """A Python without packages of its own, which finds them by PYTHONPATH."""
    script = (
        "import sys\n"
        "from ctclip_server import EmbeddedTriton\n"
        "assert sys.prefix == sys.base_prefix\n"
        "with EmbeddedTriton(sys.argv[1]) as server:\n"
        "    print(server.grpc_url)\n"
    )
    folders = [path for path in sys.path if path.endswith(("site-packages", "/src"))]
    result = subprocess.run(
        [sys._base_executable, "-c", script, str(repository)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    assert result.stdout.startswith("127.0.0.1:")


def test_a_killed_keeper_takes_triton_with_it(repository, traces):
    """Not the folder, which only the keeper knows; but no process stays."""
    server = EmbeddedTriton(repository, startup_timeout_s=120)
    server.start()
    identity = traces.of(server.process_id)
    folder = server._triton.root
    server._triton._keeper.kill()
    with pytest.raises(ServerError):
        server.wait()
    server.stop()
    shutil.rmtree(folder)
    left = traces.wait_until_gone(identity)
    remove_shared_memory(f"{identity}-")
    assert [trace for trace in left if "/dev/shm/" not in trace] == []  # noqa: S108
