"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

import grpc.aio  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import PATHOLOGIES
from ctclip_client.results import Classification, Explanation, Scores
from ctclip_client.transport import procedures as _procedures
from ctclip_client.transport.base import BaseClient
from ctclip_client.transport.infer import RELEASE_PATIENCE_S, release
from ctclip_client.transport.steps import Flow, Pause, Step, T, Work
from ctclip_client.volume import Volume


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same arguments, methods and errors, to be awaited.

    Use one from one event loop. Calls may run side by side (`asyncio.gather`); voxels are copied
    in a thread, so that the loop stays free.
    """

    _grpc = grpc.aio

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; see `Client.close`. Calls still running on it are cancelled."""
        if self._closed:
            return
        try:
            await self._run(release(self._session, RELEASE_PATIENCE_S))
        finally:
            if (channel := self._end()) is not None:
                await channel.close()

    async def check_ready(self, ensemble: str = PATHOLOGIES.name) -> None:
        """Ask whether the server would answer; see `Client.check_ready`."""
        await self._run(_procedures.ready(self._session, ensemble))

    async def pathologies(self, volume: Volume) -> Scores:
        """Score one volume; see `Client.pathologies`."""
        return await self._run(_procedures.pathologies(self._session, volume))

    async def explain(self, volume: Volume) -> Explanation:
        """Score one volume, with a map for each finding; see `Client.explain`."""
        return await self._run(_procedures.explain(self._session, volume))

    async def classify(self, volume: Volume) -> Classification:
        """Score one volume with the release's ClassFine head; see `Client.classify`."""
        return await self._run(_procedures.classify(self._session, volume))

    async def zero_shot(self, volume: Volume, prompts: Sequence[_procedures.Prompt]) -> Scores:
        """Score one volume with the caller's prompts; see `Client.zero_shot`."""
        return await self._run(_procedures.zero_shot(self._session, volume, prompts))

    async def encode_image(self, volume: Volume) -> NDArray[np.float32]:
        """Embed one volume; see `Client.encode_image`."""
        return await self._run(_procedures.encode_image(self._session, volume))

    async def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts; see `Client.encode_text`."""
        return await self._run(_procedures.encode_text(self._session, texts))

    async def _run(self, flow: Flow[T]) -> T:
        self._check_open()
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
        return await self._call(step)


async def _to_its_end(function: Callable[[], Any]) -> Any:
    """Run in a thread. A cancelled caller waits too: the thread may be writing to shared memory
    that would be taken away under it."""
    work = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
