"""The options of tritonserver that the deployment uses: documented, and taken by a real one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from ctclip_client.contract import CHECK, TEXT, TEXT_EMBEDDING, TEXT_EMBEDDING_ENSEMBLE
from ctclip_server.embedded.installation import find_installation
from ctclip_server.embedded.server import EmbeddedTriton

from ..certificates import Certificates
from ..programs import Done, run
from .support import ROOT, read_services
from .test_health_check import health_check, port_of

FLAGS = json.loads((ROOT / "tests/data/triton_flags.json").read_text(encoding="utf-8"))
POOLS = ("--cuda-memory-pool-byte-size=0:67108864", "--pinned-memory-pool-byte-size=67108864")
"""What `serve` adds on a GPU, in other sizes: see test_gpu_pools."""
KEY, SECRET = "ctclip-admin", "0123456789abcdef"
Serve = Callable[..., Done]


def name_and_value(option: str) -> tuple[str, str | None]:
    assert option.startswith("--"), option
    name, equals, value = option.removeprefix("--").partition("=")
    return name, value if equals else None


@pytest.fixture(scope="module")
def known_to_2_51() -> set[str]:
    """Options that the embedded Triton prints for --help."""
    installation = find_installation()
    environment = os.environ | {"LD_LIBRARY_PATH": str(installation.libraries)}
    done = run([installation.binary, "--help"], env=environment)
    return set(re.findall(r"^  --([a-z0-9-]+)", done.stderr + done.stdout, re.MULTILINE))


def all_options(serve: Serve, certificates: Certificates) -> list[str]:
    """What tritonserver gets from docker-compose.yml with every choice made."""
    command = read_services()["triton-gpu"]["command"]
    assert command[0] == "/opt/ctclip/serve"
    done = serve(
        command[1:],
        CTCLIP_CONFIG_NAME="openvino",
        CTCLIP_HTTP_ADDRESS="127.0.0.1",
        CTCLIP_ADMIN_HEADER=f"{KEY}={SECRET}",
        CTCLIP_GRPC_TLS="mutual",
        CTCLIP_TLS_FOLDER=str(certificates.folder),
    )
    assert done.returncode == 0, done.stderr
    return [*done.stdout.splitlines(), *POOLS]


def test_every_option_is_documented(serve: Serve, certificates: Certificates) -> None:
    for option in all_options(serve, certificates):
        name, value = name_and_value(option)
        flag = FLAGS["flags"][name]
        assert flag["sources"]
        assert set(flag["sources"]) <= set(FLAGS["sources"])
        expected = {"none": value is None, "boolean": value in {"true", "false"}}
        expected["integer"] = (value or "").isdecimal()
        assert expected.get(flag["value"], bool(value)), option


def test_the_list_of_options_is_that_of_the_binary(known_to_2_51: set[str]) -> None:
    listed = {name for name, flag in FLAGS["flags"].items() if "help-2.51" in flag["sources"]}
    assert listed == known_to_2_51


def test_two_options_are_newer_than_the_embedded_server(
    known_to_2_51: set[str], serve: Serve, certificates: Certificates
) -> None:
    """All others are tried on a real server below; these could not be."""
    used = {name_and_value(o)[0] for o in all_options(serve, certificates)}
    assert used - known_to_2_51 == {"allow-client-shm", "http-max-input-size"}


@pytest.fixture(scope="module")
def closed_server(
    repository: Path,
    known_to_2_51: set[str],
    certificates: Certificates,
    serve: Serve,
) -> Iterator[EmbeddedTriton]:
    """A real Triton with the deployment's own options: TLS on both sides, administration closed."""
    # The repository lies elsewhere here, and nothing may listen beyond loopback.
    elsewhere = {"model-repository", "metrics-address"}
    options = [
        option
        for option in all_options(serve, certificates)
        if name_and_value(option)[0] in known_to_2_51 - elsewhere
    ]
    with EmbeddedTriton(repository, extra_arguments=options) as triton:
        yield triton


@pytest.fixture
def client(
    closed_server: EmbeddedTriton, certificates: Certificates
) -> Iterator[InferenceServerClient]:
    folder = certificates.folder
    with InferenceServerClient(
        closed_server.grpc_url,
        ssl=True,
        root_certificates=str(folder / "ca.crt"),
        private_key=str(folder / "client.key"),
        certificate_chain=str(folder / "client.crt"),
    ) as triton:
        yield triton


def test_inference_needs_a_certificate_and_no_key(client: InferenceServerClient) -> None:
    text = InferInput(TEXT.name, [1], TEXT.dtype)
    text.set_data_from_numpy(np.array([b"Nodule is present."], dtype=np.object_))
    result = client.infer(TEXT_EMBEDDING_ENSEMBLE.name, [text])
    assert np.linalg.norm(result.as_numpy(TEXT_EMBEDDING.name)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", ["plain", "without a certificate"])
def test_others_do_not_get_in(
    closed_server: EmbeddedTriton, certificates: Certificates, kind: str
) -> None:
    if kind == "plain":
        channel = grpc.insecure_channel(closed_server.grpc_url)
    else:
        authority = grpc.ssl_channel_credentials(certificates.read("ca.crt"))
        channel = grpc.secure_channel(closed_server.grpc_url, authority)
    with channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


ADMINISTRATION: dict[str, Callable[..., Any]] = {
    "model-repository": InferenceServerClient.get_model_repository_index,
    "model-config": lambda c, **k: c.get_model_config(TEXT_EMBEDDING_ENSEMBLE.name, **k),
    "shared-memory": InferenceServerClient.get_system_shared_memory_status,
    "statistics": InferenceServerClient.get_inference_statistics,
    "trace": InferenceServerClient.get_trace_settings,
    "logging": InferenceServerClient.get_log_settings,
}


@pytest.mark.parametrize("protocol", ADMINISTRATION)
def test_administration_needs_the_key_over_grpc(
    client: InferenceServerClient, protocol: str
) -> None:
    ask = ADMINISTRATION[protocol]
    with pytest.raises(InferenceServerException, match="This protocol is restricted") as refused:
        ask(client)
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    ask(client, headers={f"triton-grpc-protocol-{KEY}": SECRET})


def ask_http(
    address: str, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Status and body."""
    with closing(HTTPConnection(address, timeout=10)) as connection:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("GET", f"/v2/models/{TEXT_EMBEDDING_ENSEMBLE.name}/config"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/trace/setting"),
        ("GET", "/v2/logging"),
    ],
)
def test_administration_needs_the_key_over_http(
    closed_server: EmbeddedTriton, method: str, path: str
) -> None:
    keys = ({}, {KEY: SECRET})
    statuses = [ask_http(closed_server.http_url, path, method, key)[0] for key in keys]
    assert statuses == [403, 200]


def test_metrics_are_those_of_the_page(closed_server: EmbeddedTriton) -> None:
    assert health_check(port_of(closed_server)).returncode == 0
    _, text = ask_http(closed_server.metrics_url, "/metrics")
    assert 'nv_inference_request_summary_us{model="ctclip_text"' in text
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(nv_\w+)`", page))
    assert named
    # There is no GPU here, and Triton names what it can see only.
    missing = {name for name in named if name not in text}
    assert all(name.startswith("nv_gpu_") for name in missing)


def test_a_dead_python_process_is_noticed(closed_server: EmbeddedTriton) -> None:
    """While Triton says that it is ready. Comes last: what 2.51 does next is not ours to say."""
    assert health_check(port_of(closed_server)).returncode == 0
    (stub,) = (
        child
        for child in psutil.Process(closed_server.process_id).children()
        if "stub" in child.cmdline()[0] and f"/{CHECK.name}/" in " ".join(child.cmdline())
    )
    stub.kill()
    assert ask_http(closed_server.http_url, "/v2/health/ready")[0] == 200
    done = health_check(port_of(closed_server))
    assert done.returncode == 1
    assert CHECK.name in done.stderr
