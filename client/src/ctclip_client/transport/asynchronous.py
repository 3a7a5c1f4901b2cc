"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import grpc.aio  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import PATHOLOGIES
from ctclip_client.results import Classification, Explanation, Scores
from ctclip_client.transport import procedures as _procedures
from ctclip_client.transport.endpoint import SERVICE, Tls
from ctclip_client.transport.infer import RELEASE_PATIENCE_S, release
from ctclip_client.transport.setup import Setup, closed
from ctclip_client.transport.steps import Flow, Pause, SharedMemory, Step, T, Work
from ctclip_client.volume import Volume


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods and errors, to be awaited.

    Use one from one event loop. Calls may run side by side (`asyncio.gather`); voxels are copied
    in a thread, so that the loop stays free.
    """

    def __init__(
        self,
        url: str = "localhost:8001",
        timeout_s: float = 60.0,
        *,
        shared_memory: SharedMemory = "auto",
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the connection, as for `Client`; it is opened by the first call."""
        self._setup = Setup.checked(url, timeout_s, shared_memory, tls, headers)
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._setup.session.endpoint.address!r})"

    async def close(self) -> None:
        """Close the connection; see `Client.close`. Calls still running on it are cancelled."""
        if self._closed:
            return
        try:
            await self._run(release(self._setup.session, RELEASE_PATIENCE_S))
        finally:
            channel, self._channel, self._closed = self._channel, None, True
            if channel is not None:
                await channel.close()

    async def check_ready(self, ensemble: str = PATHOLOGIES.name) -> None:
        """Ask whether the server would answer; see `Client.check_ready`."""
        await self._run(_procedures.ready(self._setup.session, ensemble))

    async def pathologies(self, volume: Volume) -> Scores:
        """Score one volume; see `Client.pathologies`."""
        return await self._run(_procedures.pathologies(self._setup.session, volume))

    async def explain(self, volume: Volume) -> Explanation:
        """Score one volume, with a map for each finding; see `Client.explain`."""
        return await self._run(_procedures.explain(self._setup.session, volume))

    async def classify(self, volume: Volume) -> Classification:
        """Score one volume with the release's ClassFine head; see `Client.classify`."""
        return await self._run(_procedures.classify(self._setup.session, volume))

    async def zero_shot(self, volume: Volume, prompts: Sequence[_procedures.Prompt]) -> Scores:
        """Score one volume with the caller's prompts; see `Client.zero_shot`."""
        return await self._run(_procedures.zero_shot(self._setup.session, volume, prompts))

    async def encode_image(self, volume: Volume) -> NDArray[np.float32]:
        """Embed one volume; see `Client.encode_image`."""
        return await self._run(_procedures.encode_image(self._setup.session, volume))

    async def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts; see `Client.encode_text`."""
        return await self._run(_procedures.encode_text(self._setup.session, texts))

    async def _run(self, flow: Flow[T]) -> T:
        if self._closed:
            raise closed()
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._perform(step)
                except BaseException as error:  # noqa: BLE001 (the procedure cleans up and raises)
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Work):
            return await _to_its_end(step.function)
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if self._channel is None:  # here, where there is an event loop for it to belong to
            if self._closed:
                raise closed()
            self._channel = self._setup.open(grpc.aio)
        method = self._channel.unary_unary(f"/{SERVICE}/{step.method}")
        return await method(step.payload, timeout=step.timeout_s, metadata=self._setup.metadata)


async def _to_its_end(function: Callable[[], Any]) -> Any:
    """Run in a thread. A cancelled caller waits too: the thread may be writing to shared memory
    that would be taken away under it."""
    work = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
