"""`make gpu-check` and `gpu-bench` with stand-ins for nvidia-smi and docker: what they say where
they cannot run, the variables of docker compose, and what is left when they end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ctclip_bench.cli.bench.gpu import main
from ctclip_bench.gpu import check as check_module
from ctclip_bench.gpu import serve as serve_module
from ctclip_bench.gpu.check import engine_complaint, read_parity, without_names
from ctclip_bench.gpu.steps import NAMES, compose_variables
from ctclip_client.errors import CTClipError, InvalidInput

ROOT = Path(__file__).parents[2]
SMI = 'echo "NVIDIA A100-SXM4-80GB, 8.0, 81920, 1024, 580.65"'


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH: what is not put there, this machine does not have."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.chdir(tmp_path)  # a .env of this working tree is not meant
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return folder


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def gpu(programs: Path) -> Path:
    """What nvidia-smi was asked."""
    log = programs.parent / "smi.log"
    program(programs, "nvidia-smi", f'echo "$@" >> {log}\n{SMI}')
    return log


def docker(
    folder: Path, running: str = "", failing: str = "nothing", slow: str = "nothing"
) -> Path:
    """A docker that notes its calls, and starts nothing."""
    log = folder.parent / "docker.log"
    program(
        folder, "docker", f'echo "$@ [$CTCLIP_USER] [$CTCLIP_BIND]" >> {log}\n'
        f'case "$*" in *" ps "*) echo "{running}";; *" {failing} "*) exit 7;; '
        f'*" {slow} "*) exec /bin/sleep 60;; esac',
    )  # fmt: skip
    return log


@pytest.fixture
def plans(copied: Path) -> Path:
    """A repository with something where plans would be, and with a config that names them."""
    for model in ("ctclip_vision", "ctclip_text"):
        (copied / model / "1" / "model.plan").write_bytes(b"no plan")
        text = (copied / model / "config.pbtxt").read_text()
        configs = copied / model / "configs"
        configs.mkdir(exist_ok=True)
        (configs / "tensorrt.pbtxt").write_text(text.replace('"onnxruntime"', '"tensorrt"'))
    return copied


def refused(
    what: str, repository: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str, str]:
    """Exit code, cause and remedy."""
    code = main([what, "--repository", str(repository), *more])
    printed = capsys.readouterr()
    assert printed.out == ""
    cause, remedy = printed.err.splitlines()
    assert cause.startswith("error: ")
    return code, cause, remedy


@pytest.mark.parametrize("what", ["check", "serve"])
def test_without_a_gpu(
    what: str, programs: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, cause, remedy = refused(what, repository, capsys)
    assert code == 1
    assert "no NVIDIA driver" in cause
    assert "on the machine with the GPU" in remedy


def test_without_cuda_in_torch(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 1
    assert "no NVIDIA driver" in capsys.readouterr().err
    program(programs, "nvidia-smi", SMI)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert "finds no GPU with CUDA" in capsys.readouterr().err
    assert list(programs.parent.iterdir()) == [programs]


def test_without_tensorrt(
    gpu: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    code, cause, remedy = refused("check", repository, capsys)
    assert code == 2
    assert "tensorrt" in cause
    assert "pip install tensorrt" in remedy


def test_without_docker(
    programs: Path, gpu: Path, plans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, cause, remedy = refused("serve", plans, capsys)
    assert (code, cause) == (4, "error: docker: it is not on this machine.")
    assert "make gpu-bench URL=HOST:8001" in remedy
    program(programs, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    code, cause, _ = refused("serve", plans, capsys)
    assert code == 4
    assert "Cannot connect to the Docker daemon" in cause
    log = docker(programs, running="0123abcd")
    code, cause, _ = refused("serve", plans, capsys)
    assert (code, "runs already" in cause) == (2, True)
    assert " up " not in log.read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--repository", "/nowhere"], "REPOSITORY: /nowhere"),
        (["--against", "x"], "CHECKPOINT and TEXT_MODEL go together"),
        (["--against", "/nowhere", "--text-model", "/"], "CHECKPOINT: there is no /nowhere"),
    ],
)
def test_inputs(
    more: list[str], message: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, cause, _ = refused("serve", repository, capsys, "--url", "127.0.0.1:1", *more)
    assert code == 2
    assert message in cause


def test_the_container_is_taken_down_whatever_happens(
    programs: Path, gpu: Path, plans: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It "starts", but nobody listens: the measurement fails, and its exit code is the answer."""
    log = docker(programs)
    flags = ["--out", str(tmp_path / "out"), "--flags", "--scans", str(ROOT / "nowhere")]
    assert main(["serve", "--repository", str(plans), *flags]) == 2  # --scans is passed on
    assert "--scans" in capfd.readouterr().err
    calls = [line.split(" ", 1)[1].strip() for line in log.read_text().splitlines()]
    user = f"[{os.getuid()}:{os.getgid()}] [127.0.0.1]"
    assert calls == [
        "--profile cpu --profile gpu --profile tensorrt ps --quiet [] []",
        f"--profile tensorrt build build-engines triton-tensorrt {user}",
        f"--profile tensorrt run --rm build-engines {user}",
        f"--profile tensorrt up --wait --no-deps triton-tensorrt {user}",
        f"--profile tensorrt down {user}",
    ]


def test_engines_that_cannot_be_built_are_not_measured(
    programs: Path, gpu: Path, plans: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = docker(programs, failing="run")
    assert main(["serve", "--repository", str(plans)]) == 4
    assert "run --rm build-engines ended with exit code 7" in capfd.readouterr().err
    calls = log.read_text()
    assert " up " not in calls
    assert "--profile tensorrt down" in calls


# --- the parity check's result ---


def checked(engine: str = "PASS", *, passed: bool = True) -> dict[str, Any]:
    steps = [
        {"rung": "ONNX fp16, ONNX Runtime", "verdict": "PASS", "reason": ""},
        {"rung": "TensorRT engine", "verdict": engine, "reason": "no GPU" if engine else ""},
    ]
    return {
        "passed": passed, "rungs": steps,
        "release": {"release": "0123abcd", "checkpoint": {"name": "patient.pt", "sha256": "4567"}},
        "machine": {"processor": "x"}, "scans": ["patient.nii"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "text", "message"),
    [
        (0, "", "printed no result"),
        (-9, json.dumps(checked()), "exit code -9"),
        (2, "", "exit code 2"),
        (4, "", "exit code 4"),
    ],
)
def test_a_check_that_died_is_no_result(code: int, text: str, message: str) -> None:
    with pytest.raises(CTClipError, match=message) as caught:
        read_parity(code, text)
    assert caught.value.exit_code == (4 if code == 4 else 2)  # 1 would be a verdict


def test_results_name_no_server_and_no_patient() -> None:
    served = {"rung": "served by Triton at ct.example:8001", "verdict": "FAIL", "volumes": 1}
    found = without_names({**checked(), "rungs": [served]}, "ct.example:8001")
    assert found["rungs"][0]["rung"] == "served by Triton at a running server"
    assert found["scans"] == 1
    assert found["release"]["checkpoint"] == {"sha256": "4567"}
    assert "patient" not in json.dumps(found)
    assert without_names(checked(), None)["rungs"] == checked()["rungs"]


def test_an_engine_that_did_not_run_has_not_passed() -> None:
    assert engine_complaint(checked()) == ""
    assert "NOT RUN" in engine_complaint(checked("NOT RUN"))
    assert "no step" in engine_complaint({"rungs": checked()["rungs"][:1]})


@pytest.mark.parametrize(("engine", "code"), [("PASS", 0), ("NOT RUN", 1)])
def test_the_check_is_kept_with_the_gpus_name(
    engine: str,
    code: int,
    gpu: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps: list[str] = []

    def step(command: Sequence[str], environment: Mapping[str, str]) -> int:
        assert environment["CUDA_VISIBLE_DEVICES"] == "1"
        steps.append(command[3])
        return 0

    def parity(_: object, environment: Mapping[str, str]) -> dict[str, Any]:
        assert environment["CUDA_VISIBLE_DEVICES"] == "1"
        return checked(engine)

    monkeypatch.setenv("CTCLIP_GPU", "1")
    monkeypatch.setattr(check_module, "load_library", lambda _: None)
    monkeypatch.setattr(check_module, "run", step)
    monkeypatch.setattr(check_module, "run_parity", parity)
    assert main(["check", "--repository", str(repository), "--out", str(tmp_path / "out")]) == code
    assert steps == ["build-engines"]
    (path,) = (tmp_path / "out").iterdir()
    name = "nvidia-a100-sxm4-80gb-0123abcd-tensorrt-parity" + ("" if code == 0 else "-FAILED")
    assert path.name.endswith(f"-{name}.json")
    content = json.loads(path.read_text())
    assert content["passed"] is (code == 0)
    assert content["machine"]["gpu"]["name"] == "NVIDIA A100-SXM4-80GB"
    printed = capsys.readouterr()
    assert "TensorRT engine" in printed.out
    assert ("do not serve them" in printed.err) is (code == 1)


# --- the Makefile ---


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    binaries = f"BIN={Path(sys.executable).parent}"
    return subprocess.run(
        [str(shutil.which("make")), "-C", str(ROOT), "-o", ".venv/installed", binaries, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPOSITORY", "CHECKPOINT", "TEXT_MODEL", "URL", "MAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)
    demo = make("-n", "gpu-check").stdout
    assert "--repository build/demo/published/model_repository --against build/demo" in demo
    own = make("-n", "gpu-bench", "REPOSITORY=mine", "URL=host:8001").stdout
    assert "--repository mine" in own
    assert "--url host:8001" in own
    assert "--against" not in own  # the demo's checkpoint is not that of another repository
    assert "--flags" not in own
    flags = ("BENCH_FLAGS=--scans there", "PARITY_FLAGS=--variations 2")
    assert "--flags --scans there" in make("-n", "gpu-bench", *flags).stdout
    assert "--flags --variations 2" in make("-n", "gpu-check", *flags).stdout


# --- the variables of docker compose ---


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
def test_variables_are_those_of_compose(
    env: str, environment: Mapping[str, str], meant: Mapping[str, str], tmp_path: Path
) -> None:
    """The environment comes before the file, and its last line before others."""
    assert compose_variables(project(tmp_path, env), environment) == meant
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed: NOT RUN against Compose itself")
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


def test_the_server_is_asked_where_env_puts_it(
    programs: Path, gpu: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = docker(programs)
    env = "CTCLIP_GRPC_PORT=9001\nCTCLIP_USER=1001:1001\nCTCLIP_GPU=1\nCTCLIP_BIND=192.0.2.10\n"
    project(tmp_path, f"{env}CTCLIP_ADMIN_HEADER={HEADER}\n")
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
    assert dict(pairwise(command))["--url"] == "127.0.0.1:9001"
    assert headers == ["triton-grpc-protocol-key: sixteen-letters-or-more\n"]
    assert "sixteen-letters" not in " ".join(command)
    assert "--id=1 " in gpu.read_text()
    # As .env has it, and reachable from this machine whatever .env has.
    started = next(line for line in log.read_text().splitlines() if " up " in line)
    assert started.endswith("[] [127.0.0.1]")


def test_another_server_is_not_told_this_ones_secret(
    programs: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path, f"CTCLIP_ADMIN_HEADER={HEADER}\n")
    asked: list[Any] = []
    monkeypatch.setattr(serve_module, "run", lambda *arguments: asked.append(arguments) or 0)
    url = ["--url", "ct.example:8001"]
    assert main(["serve", "--repository", str(repository), *url]) == 0
    assert not [flag for flag in asked[0][0] if flag.startswith("--header")]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_an_ended_measurement_takes_the_container_down(
    ending: signal.Signals, programs: Path, gpu: Path, repository: Path, tmp_path: Path
) -> None:
    """Ctrl-C tells a process and its children; SIGTERM, mostly, itself only."""
    log = docker(programs, slow="up")
    command = [
        sys.executable, "-m", "ctclip_client", "bench", "gpu", "serve",
        "--repository", str(repository),
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=project(tmp_path, ""), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        end = time.monotonic() + 60
        while not log.exists() or " up " not in log.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        tell = os.killpg if ending is signal.SIGINT else os.kill
        tell(process.pid, ending)
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (130, "interrupted\n")
    assert " down " in log.read_text().splitlines()[-1]
