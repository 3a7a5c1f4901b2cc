"""Compose files as Compose reads them, and programs that tests run."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..programs import Done, run

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deploy" / "image"
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?:(:-|:\?)([^}]*))?\}")


def interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    """`${NAME:-default}` and `${NAME:?message}` replaced, as Compose does; nothing else is used."""
    if isinstance(value, dict):
        return {key: interpolated(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if environment.get(name):
            return environment[name]
        if kind == ":?":
            raise KeyError(rest)
        return rest or ""

    return VARIABLE.sub(replace, value)


def read_services(
    files: Sequence[str] = ("docker-compose.yml",), environment: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Services of Compose files by PyYAML: anchors resolved, variables replaced, files merged."""
    merged: dict[str, dict[str, Any]] = {}
    for file in files:
        document = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
        for name, service in interpolated(document["services"], environment or {}).items():
            known = merged.setdefault(name, {})
            for key, value in service.items():
                if isinstance(value, dict):
                    known[key] = {**known.get(key, {}), **value}
                elif key in {"volumes", "ports"}:
                    known[key] = [*known.get(key, []), *value]
                else:
                    known[key] = value
    return merged


def compose_command() -> list[str]:
    """Docker Compose of this machine, as plugin or as program of its own; empty if it has none."""
    docker = shutil.which("docker")
    if docker is not None and run([docker, "compose", "version"]).returncode == 0:
        return [docker, "compose"]
    program = shutil.which("docker-compose")
    return [] if program is None else [program]


def need(program: str) -> str:
    """Path of a program that a test runs; fails, rather than skips, where it is missing."""
    path = shutil.which(program)
    if path is None:
        pytest.fail(f"This test runs {program}, which this machine lacks: install it.")
    return path


def image_files() -> list[Path]:
    """What deploy/image/Dockerfile copies into /opt/ctclip."""
    text = (IMAGE / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("COPY ")]
    assert all(target == "/opt/ctclip/" for *_, target in lines)
    return [ROOT / source for *sources, _ in lines for source in sources]


PRINTS_ITS_ARGUMENTS = '#!/bin/sh\nprintf "%s\\n" "$@"\n'


def run_serve(
    folder: Path,
    arguments: Sequence[str] = (),
    stand_in: str = PRINTS_ITS_ARGUMENTS,
    image: Path = IMAGE,
    **variables: str,
) -> Done:
    """Run `serve` with a stand-in for tritonserver.

    folder: where the stand-in is put, and TMPDIR unless that is among the variables.
    """
    program = folder / "tritonserver"
    program.write_text(stand_in)
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder), **variables}
    return run([image / "serve", *arguments], env=environment)


class Handler(BaseHTTPRequestHandler):
    """Stands in for Triton's HTTP service."""

    def do_GET(self) -> None:
        self.reply(b"")

    def do_POST(self) -> None:
        self.reply(self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, body: bytes) -> None:
        raise NotImplementedError

    def answer(self, body: bytes = b"", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def served(handler: type[Handler]) -> Iterator[int]:
    """Give the port at which it answers inside."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
