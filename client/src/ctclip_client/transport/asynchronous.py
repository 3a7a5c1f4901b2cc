"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Self

import grpc.aio  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import PATHOLOGIES
from ctclip_client.errors import InvalidInput
from ctclip_client.results import Classification, Explanation, Scores
from ctclip_client.transport import procedures as _procedures
from ctclip_client.transport.base import BaseClient
from ctclip_client.transport.infer import RELEASE_PATIENCE_S, release
from ctclip_client.transport.steps import Flow, Pause, Step, T, Work
from ctclip_client.volume import Volume

_processes: set[int] = set()
"""That have connected an AsyncClient: this one, and those that it is a fork of."""


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same arguments, methods and errors, to be awaited.

    Use one from one event loop. Calls may run side by side (`asyncio.gather`); voxels are copied
    in a thread, so that the loop stays free.
    """

    _grpc = grpc.aio
    _loop: asyncio.AbstractEventLoop | None = None
    """That of the channel."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; see `Client.close`. It ends the calls that still run."""
        channel = self._end()
        if channel is not None and self._loop is asyncio.get_running_loop():
            await channel.close()
        if self._session.unreleased:
            await _to_its_end(self._release())

    async def _release(self) -> None:
        async with self._opened() as another:
            await self._run(release(self._session, RELEASE_PATIENCE_S), another)

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
        """Score one volume with the release's trained head; see `Client.classify`."""
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

    def _check_usable(self) -> None:
        super()._check_usable()
        if self._channel is not None and self._loop is not asyncio.get_running_loop():
            raise InvalidInput(
                f"{self!r}: it was connected in another event loop.",
                "Make a client in each event loop: its connection belongs to one.",
            )

    def _opened(self) -> Any:
        if _processes - {os.getpid()}:
            raise InvalidInput(
                f"{self!r}: this process is a fork of one that has used an AsyncClient; gRPC's "
                "asyncio would hang or crash in it.",
                "Start it by multiprocessing's 'spawn', or use a Client in it.",
            )
        self._loop = asyncio.get_running_loop()
        _processes.add(os.getpid())
        return super()._opened()

    async def _run(self, flow: Flow[T], channel: Any = None) -> T:
        if channel is None:
            self._check_usable()
        try:
            return await self._drive(flow, channel)
        except BaseException as error:
            if getgeneratorstate(flow) == GEN_CLOSED:
                raise
            return await self._drive(flow, channel, error)  # an interruption between two steps

    async def _drive(self, flow: Flow[T], channel: Any, error: BaseException | None = None) -> T:
        try:
            step = next(flow) if error is None else flow.throw(error)
            while True:
                try:
                    outcome = await self._perform(step, channel)
                except BaseException as failure:  # noqa: BLE001 (the procedure cleans up and raises)
                    step = flow.throw(failure)
                else:
                    step = flow.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _perform(self, step: Step, channel: Any) -> Any:
        if isinstance(step, Work):
            # A thread cannot be cancelled, and this one writes to memory that is about to go.
            return await _to_its_end(asyncio.to_thread(step.function))
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        try:
            return await self._call(step, channel)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # the call was cancelled, not the task
                self._check_ending(error)
            raise
        except Exception as error:
            self._check_ending(error)
            raise


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do it all, also where the caller is cancelled meanwhile, and be cancelled then."""
    task = asyncio.ensure_future(work)
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # taken notice of: asyncio would report it as forgotten
    raise cancelled
