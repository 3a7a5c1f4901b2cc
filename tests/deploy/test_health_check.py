"""The container's health check, against a real Triton and against ones that only pretend."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctclip_client.contract import CHECK, RESCALE, SPACING, TEXT, TEXT_EMBEDDING_ENSEMBLE
from ctclip_server.embedded.server import EmbeddedTriton

from ..programs import Done, run
from .support import IMAGE, Handler, served


def health_check(
    port: int | str, *options: str, image: Path = IMAGE, left: str = "/nowhere"
) -> Done:
    """As in the image: no package but the standard library is within reach.

    left: the folder in which a self-check, if one was begun, has left its result.
    """
    command = [sys.executable, "-I", "-S", image / "health_check.py", f"--port={port}", *options]
    return run(command, env={"TMPDIR": left})


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


class Pretender(Handler):
    """Ready, and then the answers given."""

    answers: dict[str, Any]

    def reply(self, body: bytes) -> None:
        outputs = self.answers[self.path.split("/")[3]] if body else {}
        tensors = [{"name": name, "data": data} for name, data in outputs.items()]
        self.answer(json.dumps({"outputs": tensors}).encode())


@pytest.fixture(scope="module")
def pretending() -> Iterator[int]:
    with served(Pretender) as port:
        yield port


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
