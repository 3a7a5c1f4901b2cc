"""docker-compose.yml, its two additions and .env.example."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..programs import run
from .support import ROOT, VARIABLE, compose_command, read_services

TLS = "deploy/compose.tls.yml"
SHARED_MEMORY = "deploy/compose.shared-memory.yml"
FILES = ("docker-compose.yml", TLS, SHARED_MEMORY)
ENVIRONMENT = {"CTCLIP_TLS_DIR": "./certificates"}

# Of the Compose specification's service element: what these files may use.
SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "deploy", "environment", "healthcheck", "image",
    "init", "ipc", "logging", "network_mode", "pids_limit", "ports", "profiles", "read_only",
    "restart", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "user", "volumes",
}  # fmt: skip
SERVERS = ("triton-cpu", "triton-gpu", "triton-tensorrt")


@pytest.fixture(params=SERVERS)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_services()[request.param]


def published(service: dict[str, Any]) -> dict[int, str]:
    """Port in the container -> address on the host."""
    ports = (entry.rsplit(":", 2) for entry in service["ports"])
    return {int(inside): host for host, _, inside in ports}


GPU_ENVIRONMENT = {
    "NVIDIA_TF32_OVERRIDE": "0", "CTCLIP_CUDA_POOL_BYTES": "", "CTCLIP_PINNED_POOL_BYTES": "",
}  # fmt: skip


def test_cpu_and_gpu_differ_by_the_gpu_alone() -> None:
    services = read_services()
    assert set(services) == {*SERVERS, "build-engines"}
    cpu, gpu = services["triton-cpu"], services["triton-gpu"]
    assert (cpu.pop("profiles"), gpu.pop("profiles")) == (["cpu"], ["gpu"])
    (device,) = gpu.pop("deploy")["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    own = {**GPU_ENVIRONMENT, "CTCLIP_CONFIG_NAME": "gpu"}
    assert gpu.pop("environment") == {**cpu.pop("environment"), **own}
    assert cpu == gpu


def test_engines_are_built_before_they_are_served_and_by_the_same_base() -> None:
    services = read_services()
    build, serve, plain = (services[n] for n in ("build-engines", "triton-tensorrt", "triton-gpu"))
    assert build["profiles"] == serve["profiles"] == ["tensorrt"]
    assert serve["depends_on"] == {"build-engines": {"condition": "service_completed_successfully"}}
    assert serve["environment"] == {**plain["environment"], "CTCLIP_CONFIG_NAME": "tensorrt"}
    differing = {key for key in serve if serve[key] != plain.get(key)}
    assert differing == {"profiles", "depends_on", "environment"}
    base = serve["build"]["args"]["TRITON_IMAGE"]
    assert build["build"]["args"]["TRITON_IMAGE"] == base
    assert build["deploy"] == serve["deploy"]
    # What builds may write to the repository and reaches nobody; it has no more rights otherwise.
    (repository,) = (v for v in build["volumes"] if isinstance(v, dict))
    assert repository == {k: v for k, v in serve["volumes"][0].items() if k != "read_only"}
    assert build["environment"] == GPU_ENVIRONMENT
    assert build["network_mode"] == "none"
    for key in ("user", "read_only", "cap_drop", "security_opt", "init"):
        assert build[key] == serve[key], key
    assert build["restart"] == "no"


def test_a_service_has_the_least_rights_it_needs(service: dict[str, Any]) -> None:
    assert service["user"] == "1000:1000"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(volume["read_only"] is True for volume in service["volumes"])
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & set(service)


def test_ports_are_open_to_this_machine_only(service: dict[str, Any]) -> None:
    assert published(service) == dict.fromkeys((8000, 8001, 8002), "127.0.0.1")


def test_models_cannot_be_added_and_client_memory_not_mapped(service: dict[str, Any]) -> None:
    assert "--model-control-mode=none" in service["command"]
    assert "--allow-client-shm=false" in service["command"]


def test_a_large_chest_ct_fits_into_an_http_request(service: dict[str, Any]) -> None:
    (limit,) = (
        int(option.partition("=")[2])
        for option in service["command"]
        if option.startswith("--http-max-input-size=")
    )
    assert limit > 512 * 512 * 2000 * 2


def test_health_is_asked_by_inference(service: dict[str, Any]) -> None:
    check = service["healthcheck"]
    assert check["test"][:3] == ["CMD", "python3", "/opt/ctclip/health_check.py"]
    assert (ROOT / "deploy/image/health_check.py").is_file()
    # The script has to give up, and say why, before docker kills it.
    own = float(check["test"][3].removeprefix("--timeout-s="))
    assert own < float(check["timeout"].removesuffix("s"))


def test_tls_leaves_http_to_the_health_check() -> None:
    services = read_services(("docker-compose.yml", TLS), ENVIRONMENT)
    for service in (services[name] for name in SERVERS):
        assert service["environment"]["CTCLIP_GRPC_TLS"] == "mutual"
        assert service["environment"]["CTCLIP_HTTP_ADDRESS"] == "127.0.0.1"
        assert {volume["target"] for volume in service["volumes"]} == {"/models", "/tls"}
        assert all(volume["read_only"] is True for volume in service["volumes"])


def test_tls_without_its_folder_is_refused() -> None:
    with pytest.raises(KeyError, match="CTCLIP_TLS_DIR is the folder"):
        read_services(("docker-compose.yml", TLS))


@pytest.mark.parametrize("files", [FILES[:1], FILES[:2], (FILES[0], FILES[2]), FILES])
def test_compose_reads_the_files_as_meant(files: tuple[str, ...], tmp_path: Path) -> None:
    """By Compose itself where there is one. Elsewhere the names of the keys are all there is."""
    expected = read_services(files, ENVIRONMENT)
    for service in expected.values():
        assert set(service) <= SERVICE_KEYS
    command = compose_command()
    if not command:
        print("docker compose is not installed: NOT RUN, only the names of the keys were checked")
        return
    options = [part for file in files for part in ("-f", str(ROOT / file))]
    options += ["--profile", "cpu", "--profile", "gpu", "--profile", "tensorrt"]
    (tmp_path / "empty.env").touch()  # a .env of this working tree is not meant
    done = run(
        [*command, *options, "--env-file", tmp_path / "empty.env", "config"], cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **ENVIRONMENT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert set(services) == set(expected)
    for name, service in expected.items():
        # Compose spells sizes, times and ports in its own way, by version.
        for key in set(service) & {"command", "environment", "user", "read_only", "cap_drop"}:
            assert services[name][key] == service[key], key
        assert set(service) <= set(services[name])
        if name not in SERVERS:
            continue
        assert len(services[name]["ports"]) == len(service["ports"])
        assert "127.0.0.1" in json.dumps(services[name]["ports"])
        targets = {volume["target"]: volume["source"] for volume in services[name]["volumes"]}
        assert targets["/models"] == str(ROOT / "model_repository")
        assert all(volume["read_only"] is True for volume in services[name]["volumes"])


def test_every_variable_is_explained_with_its_default() -> None:
    used: dict[str, set[str]] = {}
    for file in FILES:
        for name, kind, rest in VARIABLE.findall((ROOT / file).read_text(encoding="utf-8")):
            used.setdefault(name, set()).add(rest if kind == ":-" else "")
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    shown = dict(re.findall(r"^#(CTCLIP_[A-Z_]+)=(.*)$", "\n".join(lines), re.MULTILINE))
    assert set(shown) == set(used)
    # Two have a default that depends on the file, and one has none.
    for name in set(used) - {"CTCLIP_HTTP_ADDRESS", "CTCLIP_TLS_DIR"}:
        assert used[name] == {shown[name]}, name
    assert not any(line and not line.startswith("#") for line in lines)
