"""Every way a call can fail, on real servers, and what is left behind: nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc as triton_grpc

from ctclip_client import (
    AsyncClient,
    Client,
    CTClipError,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    ServerError,
    ServiceError,
    Tls,
    Unavailable,
    Unreadable,
    Volume,
)
from ctclip_client.transport import shared_memory
from ctclip_client.transport.endpoint import Endpoint
from ctclip_client.transport.steps import Session
from ctclip_server.embedded.server import EmbeddedTriton

from .conftest import TLS_FOLDER, Connect, Held

AskFor = Callable[[str], Volume]
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


def session() -> Session:
    return Session(Endpoint.parse("localhost:8001"), 1.0, shared_memory=False)


def regions() -> set[str]:
    """Names that this process has left in shared memory."""
    return {path.name for path in SHARED_MEMORY.glob(f"{shared_memory._PREFIX}{os.getpid()}-*")}


def registered(server: EmbeddedTriton) -> list[str]:
    """Regions that the server holds. Look once all clients are closed: it lets go of a scan a
    moment after the answer, and only the next call and `close` ask it again."""
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        return list(client.get_system_shared_memory_status().regions)


def forget_regions(server: EmbeddedTriton) -> None:
    """Unregister what a killed process has left at a server of all tests. It is left to the next
    client of the user, and there may be none before other tests look."""
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        client.unregister_system_shared_memory()


@pytest.fixture(params=[True, False], ids=["shared memory", "grpc"])
def client(
    request: pytest.FixtureRequest, connect: Connect, misbehaving: EmbeddedTriton
) -> Iterator[Any]:
    with connect(misbehaving.grpc_url, shared_memory=request.param, retries=0) as client:
        yield client
    assert not regions()
    assert not registered(misbehaving)


def test_voxels_and_metadata_arrive_where_they_belong(client: Any, ask_for: AskFor) -> None:
    scores = client.pathologies(ask_for("good"))
    # volume[0, 0, -1], volume[-1, 0, 0]; slope, intercept
    np.testing.assert_array_equal(scores.logits, [[3, 12], [2, -5]])
    np.testing.assert_array_equal(scores.image_embedding, [sum(range(24)), 2, 3, 4])
    assert scores.findings == ("One", "Two")
    assert scores.provenance.random_weights


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("invalid", InvalidInput, "ctclip_pathologies refused the request: SPACING: said so"),
        ("internal", ServerError, r"failed \(INTERNAL\): SPACING: said so"),
        ("full", ServerError, r"failed \(INTERNAL\): No space left"),
        ("unavailable", Unavailable, "takes no request at the moment"),
        ("unsupported", ServerError, r"failed \(UNIMPLEMENTED\)"),
        ("nan", ServerError, "LOGITS: the answer holds NaN"),
        ("range", ServerError, "PROBABILITIES: the answer leaves the range"),
        ("shape", ServerError, r"PROBABILITIES: got FP32 \[1, 1\], expected FP32 \[1, 2\]"),
        ("dtype", ServerError, r"LOGITS: got FP64 \[1, 2, 2\]"),
        ("version", ServerError, "speaks version 2 of the contract"),
        ("count", ServerError, "PROVENANCE names 1 findings, the answer scores 2"),
        ("incomplete", ServerError, "PROVENANCE: .*checkpoint"),
        ("garbage", ServerError, "PROVENANCE: "),
    ],
)
def test_each_failure_has_its_class(
    name: str, kind: type[CTClipError], message: str, client: Any, ask_for: AskFor
) -> None:
    with pytest.raises(kind, match=message) as caught:
        client.pathologies(ask_for(name))
    assert type(caught.value) is kind
    assert caught.value.remedy
    assert ("/dev/shm" in caught.value.remedy) == (name == "full")  # noqa: S108
    assert not regions()
    assert client.pathologies(ask_for("good")).findings == ("One", "Two")


def test_a_model_that_is_not_there(
    client: Any, misbehaving: EmbeddedTriton, ask_for: AskFor
) -> None:
    with pytest.raises(NotReady, match=f"{misbehaving.grpc_url}: .*ctclip_zero_shot is unknown"):
        client.zero_shot(ask_for("good"), [("a", "b")])  # in the repository, not loaded
    with pytest.raises(NotReady, match="ctclip_text_embedding is unknown"):
        client.encode_text(["a"])  # not in the repository


def test_nobody_there(connect: Connect, ask_for: AskFor) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for shared, retries in (("auto", 3), (False, 0)):
        with connect(address, shared_memory=shared, retries=retries) as client:
            with pytest.raises(Unavailable, match=f"{address}: no Triton answers") as caught:
                client.pathologies(ask_for("good"))
            assert "ctclip serve" in caught.value.remedy
    with connect(address, shared_memory=True, retries=0) as client, pytest.raises(Unavailable):
        client.pathologies(ask_for("good"))
    assert not regions()


def test_another_service_than_grpc(
    connect: Connect, misbehaving: EmbeddedTriton, ask_for: AskFor
) -> None:
    client = connect(misbehaving.http_url)
    with pytest.raises(Unavailable, match="no Triton"):
        client.pathologies(ask_for("good"))
    assert not regions()


def test_a_deadline_in_the_queue(
    connect: Connect, misbehaving: EmbeddedTriton, ask_for: AskFor, held: Held
) -> None:
    """The server may read the voxels after this side has given up; they are kept for it."""
    with Client(misbehaving.grpc_url) as occupying:
        thread = threading.Thread(target=occupying.pathologies, args=(ask_for("held"),))
        thread.start()
        held.wait()
        others = regions()
        for shared in (False, True):
            client = connect(misbehaving.grpc_url, 0.6, shared_memory=shared)
            with pytest.raises(
                DeadlineExceeded, match=r"no answer .* within 0.6 s \(request [0-9a-f]{16}\)\."
            ):
                client.pathologies(ask_for("good"))
            assert regions() == others
        held.end()
        client.close()
        thread.join()
    assert not regions()
    assert not registered(misbehaving)  # close waited until the server let go
    with Client(misbehaving.grpc_url) as client:
        assert client.pathologies(ask_for("good")).findings == ("One", "Two")


def test_regions_given_up_are_released_by_the_next_call(
    misbehaving: EmbeddedTriton, ask_for: AskFor, held: Held
) -> None:
    with Client(misbehaving.grpc_url, 3.0) as client:
        with pytest.raises(DeadlineExceeded):
            client.pathologies(ask_for("held"))
        (given_up,) = registered(misbehaving)
        held.end()
        with Client(misbehaving.grpc_url) as other:
            other.pathologies(ask_for("good"))  # answered once the held one is over
        client.pathologies(ask_for("good"))
        assert given_up not in registered(misbehaving)


def test_no_room_in_shared_memory(
    misbehaving: EmbeddedTriton, ask_for: AskFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with Client(misbehaving.grpc_url) as client:
        assert client.pathologies(ask_for("good")).transport.kind == "grpc"
    with (
        Client(misbehaving.grpc_url, shared_memory=True) as client,
        pytest.raises(ServiceError, match="No space left"),
    ):
        client.pathologies(ask_for("good"))
    assert not regions()


def test_a_closed_client_says_so(
    connect: Connect, misbehaving: EmbeddedTriton, ask_for: AskFor
) -> None:
    client = connect(misbehaving.grpc_url)
    client.pathologies(ask_for("good"))
    client.close()
    client.close()
    with pytest.raises(InvalidInput, match="closed"):
        client.pathologies(ask_for("good"))


def test_tls_and_restricted_protocols(
    connect: Connect, guarded: EmbeddedTriton, ask_for: AskFor
) -> None:
    tls = Tls(root_certificates=TLS_FOLDER / "server.pem")
    with connect(guarded.grpc_url, tls=tls) as client:
        for _ in range(2):
            assert client.pathologies(ask_for("good")).transport.kind == "grpc"
    with (
        connect(guarded.grpc_url, tls=tls, shared_memory=True) as client,
        pytest.raises(ServiceError, match="shared memory was not accepted"),
    ):
        client.pathologies(ask_for("good"))
    word = {"triton-grpc-protocol-word": "sesame"}
    with connect(guarded.grpc_url, tls=tls, headers=word) as client:
        assert client.pathologies(ask_for("good")).transport.kind == "shared_memory"
        assert "sesame" not in repr(client)
    for other in (None, Tls()):  # no TLS; a certificate that nobody vouches for
        with connect(guarded.grpc_url, tls=other) as client, pytest.raises(Unavailable):
            client.pathologies(ask_for("good"))
    assert not regions()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "http://localhost:8001"}, "expected host:port"),
        ({"url": "localhost"}, "expected host:port"),
        ({"url": "localhost:0"}, "expected host:port"),
        ({"url": "localhost:99999"}, "expected host:port"),
        ({"url": ""}, "expected host:port"),
        ({"url": None}, "expected host:port"),
        ({"timeout_s": 0}, "timeout_s: got 0"),
        ({"timeout_s": float("nan")}, "timeout_s: got nan"),
        ({"timeout_s": "60"}, "timeout_s: got '60'"),
        ({"shared_memory": "yes"}, "shared_memory: got 'yes'"),
        ({"retries": -1}, "retries: got -1, expected a whole number"),
        ({"retries": True}, "retries: got True"),
        ({"retries": 2.5}, "retries: got 2.5"),
        ({"headers": {"a b": "c"}}, "'a b' is no name"),
        ({"headers": {"grpc-timeout": "c"}}, "no name"),
        ({"headers": {"key": "a\nb"}}, "the value of key"),
        ({"headers": {"key": 1}}, "the value of key"),
        ({"tls": Tls(private_key="key.pem")}, "belong together"),
    ],
)
def test_arguments_that_make_no_sense(arguments: Any, message: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidInput, match=message):
            kind(**arguments)


def test_a_missing_certificate() -> None:
    with pytest.raises(Unreadable, match=r"tls: root_certificates: no\.pem: No such file"):
        Client(tls=Tls(root_certificates="no.pem"))


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("localhost:1", True), ("LocalHost:1", True), ("127.0.0.1:1", True), ("127.9.9.9:1", True),
        ("[::1]:1", True), ("10.0.0.1:1", False), ("[2001:db8::1]:1", False),
        ("localhost.example.org:1", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(url: str, loopback: bool) -> None:
    assert Endpoint.parse(url).loopback is loopback
