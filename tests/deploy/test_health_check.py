"""The container's health check, against a real Triton and against ones that only pretend."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ctclip_client.contract import CHECK, RESCALE, SPACING, TEXT, TEXT_EMBEDDING_ENSEMBLE
from ctclip_server.embedded.server import EmbeddedTriton

from .support import IMAGE


def health_check(port: int | str, *options: str) -> subprocess.CompletedProcess[str]:
    """As in the image: no package but the standard library is within reach."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(IMAGE / "health_check.py"), f"--port={port}", *options],
        env={"TMPDIR": "/nowhere"},  # no self-check was begun
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def port_of(server: EmbeddedTriton) -> str:
    return server.http_url.rpartition(":")[2]


def test_a_served_repository_is_healthy(server: EmbeddedTriton) -> None:
    done = health_check(port_of(server))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nobody_at_the_port() -> None:
    with socket.socket() as taken:  # bound, but not listening: nobody else can get it
        taken.bind(("127.0.0.1", 0))
        done = health_check(taken.getsockname()[1])
    assert done.returncode == 1
    assert "refused" in done.stderr


@pytest.mark.parametrize("option", ["--check-model", "--text-model"])
def test_a_model_that_is_not_there(server: EmbeddedTriton, option: str) -> None:
    done = health_check(port_of(server), f"{option}=ctclip_nothing")
    assert done.returncode == 1
    assert "ctclip_nothing" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_that_never_answers() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        done = health_check(silent.getsockname()[1], "--timeout-s=1")
    assert done.returncode == 1
    assert "timed out" in done.stderr


class Pretender(BaseHTTPRequestHandler):
    """Ready, and then the answers given."""

    answers: dict[str, Any]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        outputs = self.answers[self.path.split("/")[3]]
        tensors = [{"name": name, "data": data} for name, data in outputs.items()]
        self._answer(json.dumps({"outputs": tensors}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet."""

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def pretending() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pretender) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def pretender(pretending: int) -> int:
    """The port of a server that gives the right answers, or those that a test puts in."""
    Pretender.answers = {
        CHECK.name: {"SPACING": [1.5, 0.75, 0.75], "RESCALE": [1.0, -1024.0]},
        TEXT_EMBEDDING_ENSEMBLE.name: {"TEXT_EMBEDDING": [0.6, 0.8]},
    }
    return pretending


def test_the_right_answers_are_healthy(pretender: int) -> None:
    assert health_check(pretender).returncode == 0


@pytest.mark.parametrize(
    ("model", "outputs", "cause"),
    [
        (TEXT_EMBEDDING_ENSEMBLE.name, {"TEXT_EMBEDDING": [float("nan"), 0.8]}, "length nan"),
        (TEXT_EMBEDDING_ENSEMBLE.name, {"TEXT_EMBEDDING": [0.0, 0.0]}, "length 0, expected 1"),
        (TEXT_EMBEDDING_ENSEMBLE.name, {"TEXT_EMBEDDING": []}, "length 0, expected 1"),
        (TEXT_EMBEDDING_ENSEMBLE.name, {}, "without TEXT_EMBEDDING"),
        (CHECK.name, {"SPACING": [1.5, 0.75, 0.75], "RESCALE": [1.0, 0.0]}, "RESCALE is"),
    ],
)
def test_ready_with_wrong_answers_is_sick(
    pretender: int, model: str, outputs: dict[str, Any], cause: str
) -> None:
    Pretender.answers[model] = outputs
    done = health_check(pretender)
    assert done.returncode == 1
    assert cause in done.stderr


def test_it_speaks_the_contract() -> None:
    """The script stands alone in the image, so it spells the names itself."""
    text = (IMAGE / "health_check.py").read_text(encoding="utf-8")
    for name in (CHECK.name, TEXT_EMBEDDING_ENSEMBLE.name):
        assert f'"{name}"' in text
    assert f'"{SPACING.name}": ("{SPACING.dtype}", ' in text
    assert f'"{RESCALE.name}": ("{RESCALE.dtype}", ' in text
    assert f'"name": "{TEXT.name}", "datatype": "{TEXT.dtype}"' in text
