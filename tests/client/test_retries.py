"""What is tried again, how often and after which pauses; on a real server, and by its id there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from ctclip_client import CTClipError, InvalidInput, ServerError, Unavailable
from ctclip_client.transport import retries
from ctclip_client.transport.endpoint import Endpoint
from ctclip_client.transport.retries import pause_before, retried
from ctclip_client.transport.steps import Deadline, Flow, Pause, Session
from ctclip_server.embedded.server import EmbeddedTriton

from .conftest import Connect
from .test_failures import AskFor, regions, registered


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.01)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("name", "kind", "attempts"),
    [
        ("unavailable", Unavailable, 3),
        ("busy", None, 3),
        ("invalid", InvalidInput, 1),
        ("internal", ServerError, 1),
        ("unsupported", ServerError, 1),
    ],
)
def test_what_is_tried_again(
    name: str, kind: type[CTClipError] | None, attempts: int, connect: Connect,
    misbehaving: EmbeddedTriton, ask_for: AskFor,
) -> None:  # fmt: skip
    """All attempts of one request have one id, by which the model counts the busy ones."""

    def asked() -> int:
        return int(client.pathologies(ask_for("good")).provenance.content["asked"])

    with connect(misbehaving.grpc_url, retries=2) as client:
        before = asked()
        if kind is None:
            scores = client.pathologies(ask_for(name))
            assert scores.provenance.content["request"] == scores.request_id != ""
        else:
            with pytest.raises(kind):
                client.pathologies(ask_for(name))
        assert asked() - before - 1 == attempts
    assert not regions()
    assert not registered(misbehaving)


def test_errors_of_the_server_name_the_request(
    connect: Connect, misbehaving: EmbeddedTriton, ask_for: AskFor
) -> None:
    client = connect(misbehaving.grpc_url, retries=0)
    for name, kind in (
        ("invalid", InvalidInput), ("internal", ServerError), ("nan", ServerError),
        ("unavailable", Unavailable),
    ):  # fmt: skip
        with pytest.raises(kind, match=r"\(request [0-9a-f]{16}\)"):
            client.pathologies(ask_for(name))


@contextmanager
def cutting(server: EmbeddedTriton, cuts: int) -> Iterator[str]:
    """The address of a proxy that breaks so many connections while a scan is on its way."""
    host, port = server.grpc_url.rsplit(":", 1)
    left = [cuts]
    broken: list[socket.socket] = []

    def carry(source: socket.socket, target: socket.socket, *, cut: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if cut and b"VOLUME" in data:
                    broken.append(source)
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    far = socket.create_connection((host, int(port)))
                    sockets.extend((near, far))
                    cut, left[0] = left[0] > 0, left[0] - 1
                    for ends in ((near, far), (far, near)):
                        thread = threading.Thread(target=carry, args=ends, kwargs={"cut": cut})
                        threads.append(thread)
                        thread.start()

        sockets: list[socket.socket] = []
        threads = [threading.Thread(target=serve)]
        threads[0].start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            threads[0].join()
            for each in sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            for thread in threads[1:]:
                thread.join()
            for each in sockets:
                each.close()
    assert len(broken) == cuts


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "grpc"])
@pytest.mark.parametrize("retry", [0, 3])
def test_a_connection_that_breaks_under_a_scan(
    retry: int, shared: bool, connect: Connect, misbehaving: EmbeddedTriton, ask_for: AskFor
) -> None:
    with (
        cutting(misbehaving, 1) as address,
        connect(address, retries=retry, shared_memory=shared) as client,
    ):
        if retry:
            assert client.pathologies(ask_for("good")).findings == ("One", "Two")
        else:
            with pytest.raises(Unavailable):
                client.pathologies(ask_for("good"))
    assert not regions()
    assert not registered(misbehaving)


def run(retry: int, timeout_s: float, outcomes: list[Any], *, answered: bool) -> Any:
    """The result or the error, and the pauses asked for."""
    session = Session(Endpoint.parse("localhost:1"), 60.0, False, retry, answered)
    left = iter(outcomes)

    def attempt() -> Flow[Any]:
        yield from ()
        return next(left)

    pauses: list[float] = []
    flow = retried(session, Deadline(timeout_s), attempt)
    try:
        while True:
            step = next(flow)
            assert isinstance(step, Pause)
            pauses.append(step.seconds)
    except StopIteration as stop:
        return stop.value, pauses
    except Unavailable as error:
        return error, pauses


BUSY = [Unavailable(str(index)) for index in range(20)]


@pytest.mark.parametrize(
    ("retry", "timeout_s", "outcomes", "result", "pauses"),
    [
        (0, 60, BUSY, BUSY[0], 0),
        (3, 60, BUSY, BUSY[3], 3),
        (3, 60, [*BUSY[:3], "good"], "good", 3),
        (3, 60, ["good"], "good", 0),
        (9, 0.1, BUSY, BUSY[0], 0),  # no time for a pause and another attempt: said at once
    ],
)
def test_so_often_and_no_longer(
    retry: int, timeout_s: float, outcomes: list[Any], result: object, pauses: int
) -> None:
    got, waited = run(retry, timeout_s, outcomes, answered=True)
    assert got is result
    assert len(waited) == pauses


def test_pauses() -> None:
    for known, first_s, longest_s in ((True, 0.5, 10), (False, 0.1, 2)):
        for count in (0, 1, 2, 3, 10, 5000):
            expected = min(first_s * 2 ** min(count, 9), longest_s)
            drawn = [pause_before(count, known=known) for _ in range(20)]
            assert expected / 2 <= min(drawn) < max(drawn) <= expected
    _, waited = run(3, 60, BUSY, answered=False)
    assert sum(waited) < 1  # a wrong port is told within a second
