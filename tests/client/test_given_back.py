"""Whatever ends a call, what it had acquired is given back: files in /dev/shm, and regions that the
server maps, each of which would cost it one scan of memory until it is restarted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from tritonclient import grpc as triton_grpc

import ctclip_client.transport
from ctclip_client import AsyncClient, Client, InvalidInput, Volume
from ctclip_client.contract import VISION, Geometry
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..nifti_files import save_volume
from .test_failures import SHARED_MEMORY, regions, registered

pytestmark = pytest.mark.usefixtures("left")
SEED = int.from_bytes(os.urandom(2), "big")
MANY = [(f"Nodule of {i} mm.", f"No nodule of {i} mm.") for i in range(40)]  # more than fit at once
TRANSPORT = str(Path(ctclip_client.transport.__file__).parent)
Trace = Callable[[FrameType, str, Any], Any]


class PlantedError(Exception):
    """Of whoever calls the client."""


@pytest.fixture
def scan() -> Volume:
    voxels = np.random.default_rng(0).integers(-1000, 1000, (20, 30, 30), np.int16)
    return Volume.from_array(voxels, (1.5, 0.75, 0.75), (1, 0))


def interrupted(call: Callable[[], object], moment: int, error: type[BaseException]) -> int:
    """Call, and raise an error at one moment: a bytecode of the client's transport.

    Not where a lock is taken: Python itself keeps signals out of there. Return the moments passed.
    """
    passed = 0

    def at_each(frame: FrameType, event: str, _: Any) -> Trace:
        nonlocal passed
        passed += event == "opcode"
        if event == "opcode" and passed == moment:
            sys.settrace(None)
            raise error
        return at_each

    def at_call(frame: FrameType, _event: str, _argument: Any) -> Trace | None:
        if not frame.f_code.co_filename.startswith(TRANSPORT) or "_lock" in frame.f_code.co_names:
            return None
        frame.f_trace_opcodes = True
        return at_each

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        call()
    finally:
        sys.settrace(before)
    return passed


@pytest.mark.parametrize("error", [KeyboardInterrupt, PlantedError])
def test_interrupted_between_any_two_bytecodes(
    error: type[BaseException], server: EmbeddedTriton, scan: Volume
) -> None:
    print(f"seed {SEED}")
    chosen = random.Random(SEED)
    calls: tuple[Callable[[Client], object], ...] = (
        lambda client: client.pathologies(scan),
        lambda client: client.zero_shot(scan, MANY),
    )
    for call in calls:
        moments = 0
        for _ in range(3):  # of which one may have to ask the server twice to let go of the scan
            with Client(server.grpc_url) as client:
                passed = interrupted(lambda: call(client), 0, error)  # noqa: B023
            moments = min(moments or passed, passed)
        for moment in sorted(chosen.sample(range(1, moments), 40)):
            with Client(server.grpc_url) as client:
                try:
                    passed = interrupted(lambda: call(client), moment, error)  # noqa: B023
                except error:
                    pass
                else:  # it had less to sweep of other tests' clients than the first run
                    assert moments * 0.9 < passed < moment
            assert not regions(), moment
            assert not registered(server), moment


class Disturbed:
    """An awaitable that cancels its task at one of its suspensions: meanwhile, or as it ends."""

    def __init__(self, awaitable: Any, at: set[int], meanwhile: bool) -> None:
        self.inner, self.at, self.meanwhile = awaitable.__await__(), at, meanwhile
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = lambda: self.inner.send(None)  # noqa: E731
        while True:
            try:
                future = step()
            except StopIteration as stop:
                return stop.value
            self.suspensions += 1
            here = self.suspensions in self.at
            task = asyncio.current_task()
            assert task is not None
            if here and self.meanwhile:
                task.cancel()
            try:
                yield future
            except BaseException as error:  # noqa: BLE001 (handed on)
                step = lambda error=error: self.inner.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                step = lambda: self.inner.send(None)  # noqa: E731
                if here:
                    step = lambda: self.inner.throw(asyncio.CancelledError())  # noqa: E731


@pytest.mark.parametrize("meanwhile", [True, False], ids=["meanwhile", "done"])
def test_cancelled_at_any_await(meanwhile: bool, server: EmbeddedTriton, scan: Volume) -> None:
    async def go(name: str, more: tuple[Any, ...], *, twice: bool) -> int:
        for at in range(1, 1000):
            async with AsyncClient(server.grpc_url) as client:
                places = {at, at + 1} if twice else {at}
                call = Disturbed(getattr(client, name)(scan, *more), places, meanwhile)
                task = asyncio.ensure_future(call)
                await asyncio.wait([task])
                assert not regions(), at
                if call.suspensions < at:
                    return at
                if not task.cancelled():
                    task.result()  # the cancellation came when all was done
            assert not registered(server), at
        raise AssertionError("it has no end")

    tried = sum(
        asyncio.run(go(name, more, twice=twice))
        for name, more in (("pathologies", ()), ("zero_shot", (MANY,)))
        for twice in (False, True)
    )
    assert tried > 30


def test_calls_that_ran_out_of_time_and_a_close_that_is_cancelled(server: EmbeddedTriton) -> None:
    voxels = np.zeros((120, 350, 350), np.int16)  # 29 MB: each step takes its time
    scan = Volume.from_array(voxels, (1.5, 0.75, 0.75), (1, 0))

    async def go(timeout_s: float) -> None:
        client = AsyncClient(server.grpc_url)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.pathologies(scan), timeout_s)
        assert not regions(), timeout_s
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert not registered(server), timeout_s

    for timeout_ms in (5, 15, 25, 40, 60, 100, 200):
        asyncio.run(go(timeout_ms / 1000))


def test_a_call_that_is_dropped(server: EmbeddedTriton, scan: Volume) -> None:
    """By who drives a coroutine and forgets it: nothing can be awaited any more."""

    async def go(at: int) -> bool:
        async with AsyncClient(server.grpc_url) as client:
            call = client.pathologies(scan).__await__()
            for _ in range(at):
                try:
                    future = call.send(None)
                except StopIteration:
                    return True
                if future is not None:  # otherwise it only lets others go first
                    future._asyncio_future_blocking = False
                    await asyncio.wait([future])
            call.close()
        return False

    for at in range(50):
        done = asyncio.run(go(at))
        assert not regions(), at
        assert not registered(server), at
        if done:
            return
    raise AssertionError("it has no end")


def closing_during_calls(server: EmbeddedTriton, scan: Volume) -> list[BaseException]:
    client = Client(server.grpc_url)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            while True:
                client.pathologies(scan)
        except BaseException as error:  # noqa: BLE001 (looked at by the test)
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    while not regions():
        time.sleep(0.001)
    client.close()
    for thread in threads:
        thread.join()
    return errors


async def aclosing_during_calls(server: EmbeddedTriton, scan: Volume) -> list[Any]:
    client = AsyncClient(server.grpc_url)

    async def call() -> None:
        while True:
            await client.pathologies(scan)

    tasks = [asyncio.create_task(call()) for _ in range(4)]
    while not regions():
        await asyncio.sleep(0)
    await client.close()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_a_client_that_is_closed_during_calls(server: EmbeddedTriton, scan: Volume) -> None:
    for _ in range(5):
        errors = closing_during_calls(server, scan)
        assert not regions()
        assert not registered(server)
        errors += asyncio.run(aclosing_during_calls(server, scan))
        gc.collect()  # a client that has gone leaves a file for what it has not given back
        assert not regions()
        assert not registered(server)
        assert len(errors) == 8
        assert {type(error) for error in errors} == {InvalidInput}
        assert all("client" in str(error) and "closed" in str(error) for error in errors)


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    phantom = chest_phantom(Geometry((40, 60, 60)))
    voxels = np.tile(phantom.voxels, (8, 12, 16))  # 39 MB
    path = tmp_path_factory.mktemp("large") / "ct.nii"
    save_volume(path, Volume.from_array(voxels, phantom.spacing_mm, phantom.rescale))
    return path


WAITING = """
import sys
from ctclip_client.cli.program import main
from ctclip_client.transport import blocking
blocking.RELEASE_PATIENCE_S = 60
sys.exit(main())
"""


@pytest.mark.parametrize("delay_s", [0, 0.04])
def test_a_command_that_is_terminated(
    delay_s: float, server: EmbeddedTriton, large_file: Path
) -> None:
    """In the copy it once said BufferError, for the memory that it could not close."""
    arguments = ["predict", str(large_file), "--any-region", "--url", server.grpc_url]
    command = [sys.executable, "-c", WAITING, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        pattern = f"ctclip-client-{process.pid}-*"
        while not list(SHARED_MEMORY.glob(pattern)) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
    if process.returncode not in (0, -signal.SIGTERM):  # those who were faster
        assert (process.returncode, said) == (130, b"interrupted\n")
    assert not list(SHARED_MEMORY.glob(pattern))
    assert not registered(server)


def computed(server: EmbeddedTriton) -> int:
    """Volumes that the server's vision model has embedded so far."""
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        (model,) = client.get_inference_statistics(VISION.name).model_stats
    return int(model.inference_count)


@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_what_was_given_up_is_not_computed(how: str, server: EmbeddedTriton) -> None:
    """Triton hears of it, and takes no further step of a request that still waits."""
    voxels = np.zeros((100, 200, 200), np.int16)
    scan = Volume.from_array(voxels, (1.5, 0.75, 0.75), (1, 0))
    count = 24

    async def cancelled() -> None:
        async with AsyncClient(server.grpc_url) as client:
            tasks = [asyncio.create_task(client.encode_image(scan)) for _ in range(count)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def closed() -> None:
        client = Client(server.grpc_url)
        with ThreadPoolExecutor(count) as pool:
            calls = [pool.submit(client.encode_image, scan) for _ in range(count)]
            wait(calls, return_when=FIRST_COMPLETED)
            client.close()

    def all_were_computed() -> bool:
        before = computed(server)
        if how == "cancelled":
            asyncio.run(cancelled())
        else:
            closed()
        with Client(server.grpc_url) as client:
            client.encode_image(scan)  # which waits behind all the others
        return computed(server) - before - 1 == count

    # On a busy machine the server may be through before this process has its turn again. Without
    # a word to it, it computes all of them each time.
    assert not all(all_were_computed() for _ in range(10))
    assert not regions()
    assert not registered(server)


class Holding(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server that answers nothing, and sees when a call is given up."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()

    def service(self, _: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._hold)

    def _hold(self, _: bytes, context: Any) -> bytes:
        context.add_callback(self.ended.set)
        self.began.set()
        self.ended.wait(60)
        return b""


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("how", ["interrupted", "cancelled"])
def test_a_call_that_is_given_up_ends_on_the_server(how: str, scan: Volume) -> None:
    """At once, and not when the client is closed or its error forgotten."""
    held = Holding()
    server = grpc.server(ThreadPoolExecutor(1), handlers=[held])
    url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    async def cancelled() -> None:
        async with AsyncClient(url, shared_memory=False) as client:
            task = asyncio.create_task(client.pathologies(scan))
            await asyncio.to_thread(held.began.wait)
            task.cancel()
            assert await asyncio.to_thread(held.ended.wait, 10)

    def interrupt() -> None:
        held.began.wait()
        time.sleep(0.5)  # until the main thread does nothing but wait for the answer
        signal.raise_signal(signal.SIGINT)

    if how == "cancelled":
        asyncio.run(cancelled())
    else:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with Client(url, shared_memory=False) as client:
            with pytest.raises(KeyboardInterrupt) as caught:
                client.pathologies(scan)
            assert caught.value.__traceback__ is not None
            assert held.ended.wait(10)
        thread.join()
    server.stop(0).wait()
