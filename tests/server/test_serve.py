"""`ctclip serve` as a process of its own: its line, its signals, its exit codes."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from ctclip_client.cli.program import main
from ctclip_client.errors import ServerError
from ctclip_server.cli import serve as serve_command
from ctclip_server.embedded.server import RestartableError

from .conftest import add_constant

READY = re.compile(
    r"ready grpc=127\.0\.0\.1:(\d+) http=127\.0\.0\.1:(\d+) metrics=127\.0\.0\.1:(\d+)\n"
)


@pytest.fixture
def repository(tmp_path):
    add_constant("add", 1.0).write(tmp_path / "repository")
    return tmp_path / "repository"


def _triton_of(fetch, port: str) -> psutil.Process:
    """Triton's process: the grandchild of the command, by way of its keeper."""
    identity = re.search(r"ctclip-[0-9a-f]+", fetch(f"127.0.0.1:{port}", "/v2"))[0]
    return next(
        process
        for process in psutil.process_iter(["cmdline"])
        if f"--id={identity}" in (process.info["cmdline"] or ())
    )


def _ends_cleanly(process, number):
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (0 if number == signal.SIGTERM else 130)
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_one_line_when_ready_and_a_clean_end_by_signal(repository, serve, traces, fetch, number):
    """SIGINT too where a script's shell had it ignored, as it does to what is started with `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = serve("--repository", repository)
    finally:
        signal.signal(signal.SIGINT, before)
    match = READY.fullmatch(process.stdout.readline())
    assert match
    identity = traces.of(_triton_of(fetch, match[2]).pid)
    _ends_cleanly(process, number)
    assert traces.left(identity) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_during_the_start_ends_it_cleanly(repository, serve, number):
    process = serve("--repository", repository)
    assert "starting Triton" in process.stderr.readline()
    _ends_cleanly(process, number)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "soon"])
def test_a_time_to_start_that_is_none_is_a_usage_error(repository, capsys, seconds):
    flag = f"--startup-timeout-s={seconds}"
    with pytest.raises(SystemExit) as exit_code:
        main(["serve", "--repository", str(repository), flag])
    assert exit_code.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"--startup-timeout-s: got '{seconds}', expected seconds, more than 0" in said.err


def test_triton_dying_later_ends_it_with_4(repository, serve, fetch, tmp_path):
    log = tmp_path / "triton.log"
    process = serve("--repository", repository, "--log", log)
    match = READY.fullmatch(process.stdout.readline())
    _triton_of(fetch, match[2]).kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "error: Triton ended (signal 9, SIGKILL)" in err
    assert str(log) in err
    assert "Started GRPCInferenceService" in log.read_text()


@pytest.mark.parametrize("case", ["missing", "empty", "no weights"])
def test_a_repository_that_was_never_exported_exits_with_2(repository, capsys, case):
    if case == "missing":
        repository = repository / "nowhere"
    elif case == "empty":
        (repository / "add" / "config.pbtxt").unlink()
    else:
        (repository / "add" / "1" / "model.onnx").rename(repository / "add" / "1" / ".gitkeep")
    assert main(["serve", "--repository", str(repository)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "ctclip export" in said.err


def test_a_repository_that_does_not_load_exits_with_2_and_the_reason(repository, serve):
    config = repository / "add" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [ 2 ]", "dims: [ 3 ]"))
    process = serve("--repository", repository)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert "error: 'add' does not load: tensor 'X'" in err
    assert len(err.splitlines()) < 6


def _line_with(process, words):
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"serve ended without saying '{words}'")


def test_what_is_lost_is_back_at_the_same_port_but_not_for_ever(
    repository, serve, fetch, caller, traces, tmp_path
):
    """A crash, and the death of a model's Python process, which Triton 2.51 never repairs."""
    log = tmp_path / "triton.log"
    process = serve("--repository", repository, "--log", log)
    grpc_port, http_port, _ = READY.fullmatch(process.stdout.readline()).groups()
    _line_with(process, "every model is ready")
    one = np.ones((1, 2), np.float32)

    _triton_of(fetch, http_port).send_signal(signal.SIGSEGV)
    said = _line_with(process, "Starting Triton again")  # it answers while it writes down its stack
    # On a machine without a GPU the log has complaints from the start, which are no reason.
    assert "WARNING: Triton ended (signal 11, SIGSEGV). Starting Triton again, at" in said
    _line_with(process, "every model is ready")
    ask = caller(f"127.0.0.1:{grpc_port}")
    np.testing.assert_array_equal(ask("add", X=one), one + 1)
    _, crashed, again = log.read_text().split("Started GRPCInferenceService")
    assert "Signal (11) received" in crashed
    assert "Signal (11) received" not in again

    (stub,) = _triton_of(fetch, http_port).children()
    stub.kill()
    said = _line_with(process, "Starting Triton again")
    assert "WARNING: The Python process of a model has died." in said
    _line_with(process, "every model is ready")
    ask = caller(f"127.0.0.1:{grpc_port}")
    np.testing.assert_array_equal(ask("add", X=one), one + 1)

    triton = _triton_of(fetch, http_port)
    identity = traces.of(triton.pid)
    triton.send_signal(signal.SIGFPE)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "error: Triton ended (signal 8, SIGFPE). It is not started again" in err
    assert "3 times in a row within " in err
    assert "Traceback" not in err
    assert traces.left(identity) == []


class _Scripted:
    """Stands for a Triton: one word for each time that it is started."""

    grpc_url = http_url = metrics_url = "127.0.0.1:1"
    repository = Path("nowhere")
    startup_timeout_s = 1.0

    def __init__(self, *words):
        self.words = list(words)

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
    monkeypatch.setattr(serve_command, "SOON_S", soon_s)
    with pytest.raises(ServerError if given_up else KeyboardInterrupt):
        serve_command._serve(triton)
    assert triton.words == []
    assert capsys.readouterr().err.count("WARNING: Lost.") == len(words) - 1
