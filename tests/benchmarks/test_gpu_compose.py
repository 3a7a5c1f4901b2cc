"""`make gpu-bench` and docker compose read the same variables; and what is ended is taken down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctclip_bench.cli.bench.gpu import main
from ctclip_bench.gpu import serve as serve_module
from ctclip_bench.gpu.steps import NAMES, compose_variables
from ctclip_client.errors import InvalidInput

FILE = """
# CTCLIP_USER=7:7
CTCLIP_GRPC_PORT=9001 # of gRPC
export CTCLIP_USER='1001:1001'
CTCLIP_ADMIN_HEADER="key=a value # of 16 or more"   # quoted
CTCLIP_GPU = 1#2
CTCLIP_REPOSITORY="${HOME}/not/read"
"""
MEANT = {
    "CTCLIP_GRPC_PORT": "9001", "CTCLIP_USER": "1001:1001",
    "CTCLIP_ADMIN_HEADER": "key=a value # of 16 or more", "CTCLIP_GPU": "1#2",
}  # fmt: skip
HEADER = "key=sixteen-letters-or-more"


def project(folder: Path, env: str) -> Path:
    """A folder with a Compose file that shows the variables, and a `.env`."""
    shown = {name: f"${{{name}:-default}}" for name in NAMES}
    services = {"shown": {"image": "none", "environment": shown}}
    document = {"version": "3.8", "services": services}  # 1.29 asks for the version
    (folder / "docker-compose.yml").write_text(yaml.safe_dump(document))
    (folder / ".env").write_text(env)
    return folder


CASES = [
    (FILE, {}, MEANT),
    (
        FILE, {"CTCLIP_USER": "1:1", "CTCLIP_GRPC_PORT": ""},
        MEANT | {"CTCLIP_USER": "1:1", "CTCLIP_GRPC_PORT": ""},
    ),
    (
        "CTCLIP_GPU=\nCTCLIP_USER=1:1\nCTCLIP_USER=2:2\n", {"CTCLIP_GPU": "3"},
        {"CTCLIP_GPU": "3", "CTCLIP_USER": "2:2"},
    ),
    ("CTCLIP_GPU=\n", {}, {"CTCLIP_GPU": ""}),
]  # fmt: skip


@pytest.mark.parametrize(("env", "environment", "meant"), CASES)
def test_the_environment_comes_before_the_file_and_its_last_line_before_others(
    env: str, environment: Mapping[str, str], meant: Mapping[str, str], tmp_path: Path
) -> None:
    assert compose_variables(project(tmp_path, env), environment) == meant


@pytest.mark.parametrize(("env", "environment", "meant"), CASES)
def test_variables_are_those_of_compose(
    env: str, environment: Mapping[str, str], meant: Mapping[str, str], tmp_path: Path
) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed: NOT RUN against Compose itself")
    project(tmp_path, env)
    done = subprocess.run(
        [program, "config"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)["services"]["shown"]["environment"]
    assert {name: meant.get(name) or "default" for name in NAMES} == shown


def test_the_file_lies_beside_the_compose_file(tmp_path: Path) -> None:
    below = project(tmp_path, "CTCLIP_GPU=1\n") / "benchmarks" / "src"
    below.mkdir(parents=True)
    assert compose_variables(below, {}) == {"CTCLIP_GPU": "1"}
    (tmp_path / ".env").unlink()
    assert compose_variables(below, {"CTCLIP_GPU": "2", "OTHER": "3"}) == {"CTCLIP_GPU": "2"}


@pytest.mark.parametrize(
    "line",
    [
        "CTCLIP_ADMIN_HEADER=key=${WORD}", 'CTCLIP_ADMIN_HEADER="key=a\\"b"',
        "CTCLIP_ADMIN_HEADER='key=", "CTCLIP_ADMIN_HEADER='key=' more",
    ],
)  # fmt: skip
def test_what_only_compose_understands_is_refused_and_not_guessed(
    line: str, tmp_path: Path
) -> None:
    folder = project(tmp_path, f"# first\n{line}\n")
    with pytest.raises(InvalidInput, match=r"\.env, line 2: CTCLIP_ADMIN_HEADER") as caught:
        compose_variables(folder, {})
    assert "key=" not in str(caught.value)  # it is a secret
    assert compose_variables(folder, {"CTCLIP_ADMIN_HEADER": HEADER})


# --- what gpu-bench does with them ---


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notes of a docker that starts nothing; PATH holds it and a GPU's driver, no more."""
    folder, log = tmp_path / "bin", tmp_path / "docker.log"
    folder.mkdir()
    programs = {
        "docker": f'echo "$@ [$CTCLIP_USER] [$CTCLIP_BIND]" >> {log}\n'
        f'case "$*" in *" up "*) test ! -e {tmp_path}/slow || exec /bin/sleep 60;; esac',
        "nvidia-smi": f'echo "$@" >> {tmp_path}/smi.log\n'
        'echo "NVIDIA A100-SXM4-80GB, 8.0, 81920, 1024, 580.65"',
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return log


def test_the_server_is_asked_where_env_puts_it(
    docker: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = "CTCLIP_GRPC_PORT=9001\nCTCLIP_USER=1001:1001\nCTCLIP_GPU=1\nCTCLIP_BIND=192.0.2.10\n"
    monkeypatch.chdir(project(tmp_path, f"{env}CTCLIP_ADMIN_HEADER={HEADER}\n"))
    asked: list[list[str]] = []
    headers: list[str] = []
    step = serve_module.run

    def run(command: list[str], environment: Mapping[str, str] | None = None) -> int:
        if command[0] != sys.executable:
            return step(command, environment)
        asked.append(command)
        headers.append(Path(dict(pairwise(command))["--headers-file"]).read_text())
        assert (environment or {})["CUDA_VISIBLE_DEVICES"] == "1"
        return 0

    monkeypatch.setattr(serve_module, "run", run)
    assert main(["serve", "--repository", str(repository)]) == 0
    (command,) = asked
    flags = dict(pairwise(command))
    assert flags["--url"] == "127.0.0.1:9001"
    assert headers == ["triton-grpc-protocol-key: sixteen-letters-or-more\n"]
    assert "sixteen-letters" not in " ".join(command)
    assert "--id=1 " in (tmp_path / "smi.log").read_text()
    # As .env has it, and reachable from this machine whatever .env has.
    started = next(line for line in docker.read_text().splitlines() if " up " in line)
    assert started.endswith("[] [127.0.0.1]")


def test_another_server_is_not_told_this_ones_secret(
    docker: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path, f"CTCLIP_ADMIN_HEADER={HEADER}\n"))
    asked: list[Any] = []
    monkeypatch.setattr(serve_module, "run", lambda *arguments: asked.append(arguments) or 0)
    url = ["--url", "ct.example:8001"]
    assert main(["serve", "--repository", str(repository), *url]) == 0
    assert not [flag for flag in asked[0][0] if flag.startswith("--header")]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_an_ended_measurement_takes_the_container_down(
    ending: signal.Signals, docker: Path, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    command = [
        sys.executable, "-m", "ctclip_client", "bench", "gpu", "serve",
        "--repository", str(repository),
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=project(tmp_path, ""), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        end = time.monotonic() + 60
        while not docker.exists() or " up " not in docker.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        end_like(process, ending)
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (130, "interrupted\n")
    assert " down " in docker.read_text().splitlines()[-1]


def end_like(process: subprocess.Popen[str], ending: signal.Signals) -> None:
    """Ctrl-C tells a process and its children; SIGTERM, mostly, itself only."""
    if ending is signal.SIGINT:
        os.killpg(process.pid, ending)
    else:
        process.send_signal(ending)
