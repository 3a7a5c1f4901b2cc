"""Clients, results and errors in forks, in workers of a DataLoader and in several event loops."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

import ctclip_client
from ctclip_client import AsyncClient, Client, CTClipError, InvalidInput, Scores, Volume
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from .test_failures import forget_regions, regions, registered


@pytest.fixture(scope="module")
def volume(golden: Golden) -> Volume:
    return chest_phantom(golden.geometry)


@pytest.fixture(autouse=True)
def nothing_connects() -> None:
    """gRPC cannot be forked while a thread calls into it, and a call of its asyncio that failed, in
    an earlier test, goes on connecting until its reference cycle is collected."""
    gc.collect()


def forked(work: Callable[[], object]) -> Any:
    """What a function gives, or the error that it raises, in a fork of this process."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)

    def run() -> None:
        try:
            theirs.send(work())
        except Exception as error:  # noqa: BLE001 (looked at by the test)
            theirs.send(error)

    process = context.Process(target=run)
    with warnings.catch_warnings(action="ignore"):  # this process has threads
        process.start()
    theirs.close()
    try:
        assert mine.poll(60), "it hangs"
        return mine.recv()
    finally:
        process.kill()
        process.join()
        mine.close()


def scored(url: str, volume: Volume) -> Scores:
    with Client(url) as client:
        return client.pathologies(volume)


def closed_behind(client: Client, volume: Volume) -> Scores:
    """Without it the fork would leave to nobody what the server still holds after the answer."""
    with client:
        return client.pathologies(volume)


async def ascored(url: str, volume: Volume) -> Scores:
    async with AsyncClient(url) as client:
        return await client.pathologies(volume)


def test_a_client_in_a_fork(server: EmbeddedTriton, volume: Volume) -> None:
    with Client(server.grpc_url) as client:
        first = forked(lambda: closed_behind(client, volume))  # it connects there
        expected = client.pathologies(volume)
        refused = forked(lambda: client.pathologies(volume))
        assert isinstance(refused, InvalidInput)
        assert "is used in a fork" in refused.cause
        assert "Make a client in each process" in refused.remedy
        closed = forked(client.close)
        assert closed is None
        own = forked(lambda: scored(server.grpc_url, volume))
        for got in (first, own, client.pathologies(volume)):
            assert got.findings == expected.findings
            np.testing.assert_allclose(got.logits, expected.logits, rtol=0, atol=2e-4)
    assert not regions()
    assert not registered(server)


def test_an_asyncio_client_in_a_fork(server: EmbeddedTriton, volume: Volume) -> None:
    def in_fork() -> Scores:
        return asyncio.run(ascored(server.grpc_url, volume))

    async def with_one_connected() -> list[Any]:
        async with AsyncClient(server.grpc_url) as client:
            await client.encode_text(["a"])
            tries = (in_fork, lambda: scored(server.grpc_url, volume))
            return [forked(work) for work in tries]

    refused, blocking = asyncio.run(with_one_connected())
    for error in (refused, forked(in_fork)):  # also when it is closed: gRPC's threads remain
        assert isinstance(error, InvalidInput)
        assert "a fork of one that has used an AsyncClient" in error.cause
        assert "'spawn'" in error.remedy
    assert isinstance(blocking, Scores)


class Embeddings(Dataset[float]):
    """What a data set does that asks a server."""

    def __init__(self, client: Client, volume: Volume) -> None:
        self.client, self.volume = client, volume

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> float:
        return float(self.client.encode_image(self.volume)[index])


def test_workers_of_a_data_loader(server: EmbeddedTriton, volume: Volume) -> None:
    def loaded(client: Client, how: str) -> list[float]:
        workers = DataLoader(
            Embeddings(client, volume), batch_size=None, num_workers=1, multiprocessing_context=how
        )
        with warnings.catch_warnings(action="ignore"):  # this process has threads
            return list(workers)

    with Client(server.grpc_url) as client:
        got = loaded(client, "fork")
        assert got == pytest.approx(client.encode_image(volume)[:2], rel=0, abs=1e-5)
        with pytest.raises(InvalidInput, match="make a client where it is used"):
            loaded(client, "spawn")
    forget_regions(server)  # workers close no client
    try:
        raise InvalidInput("used in a fork.", "Make a client in each process.")
    except InvalidInput:
        handed_on = ExceptionWrapper(where="in a worker")  # as a worker does it; takes torch 5 s
    with pytest.raises(InvalidInput, match=r"(?s)in a worker.*Make a client in each process"):
        handed_on.reraise()


def test_what_a_client_cannot_be_made_from(server: EmbeddedTriton) -> None:
    for made in (Client(server.grpc_url), AsyncClient(server.grpc_url)):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(InvalidInput, match="neither be pickled nor copied"):
                attempt(made)


def test_event_loops(server: EmbeddedTriton, volume: Volume) -> None:
    async def cell() -> Scores:  # of a notebook, whose loop is running
        return scored(server.grpc_url, volume)

    assert len(asyncio.run(cell()).findings) == 18
    loops = asyncio.new_event_loop(), asyncio.new_event_loop()
    other = AsyncClient(server.grpc_url)
    loops[0].run_until_complete(other.encode_text(["a"]))
    with pytest.raises(InvalidInput, match="another event loop") as caught:
        loops[1].run_until_complete(other.encode_text(["a"]))
    assert "Make a client in each event loop" in caught.value.remedy
    loops[0].close()
    loops[1].run_until_complete(other.close())
    loops[1].close()


def unpickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 (made here)


@pytest.mark.parametrize("again", [unpickled, copy.deepcopy])
def test_results_and_errors_can_be_sent_on(
    again: Callable[[Any], Any], server: EmbeddedTriton, volume: Volume
) -> None:
    with Client(server.grpc_url) as client:
        answer = client.explain(volume)
    got = again(answer)
    assert type(got) is type(answer)
    assert (got.provenance, got.timings_ms, got.transport, got.request_id) == (
        answer.provenance, answer.timings_ms, answer.transport, answer.request_id,
    )  # fmt: skip
    assert got.to_json() == answer.to_json()
    np.testing.assert_array_equal(got.relevance, answer.relevance)
    sent = again(volume)
    np.testing.assert_array_equal(sent.voxels, volume.voxels)
    assert (sent.spacing_mm, sent.rescale) == (volume.spacing_mm, volume.rescale)
    public = (getattr(ctclip_client, name) for name in ctclip_client.__all__)
    errors = [kind for kind in public if isinstance(kind, type) and issubclass(kind, CTClipError)]
    assert len(errors) > 6
    for kind in errors:
        for made in (kind("a cause.", "a remedy."), kind("a cause.")):
            error = again(made)
            assert type(error) is kind
            assert (error.cause, error.remedy, str(error)) == (made.cause, made.remedy, str(made))
