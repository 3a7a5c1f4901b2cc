"""The client for ordinary code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Self

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import PATHOLOGIES
from ctclip_client.results import Classification, Explanation, Scores
from ctclip_client.transport import procedures as _procedures
from ctclip_client.transport.base import BaseClient
from ctclip_client.transport.infer import RELEASE_PATIENCE_S, release
from ctclip_client.transport.steps import Flow, Pause, Session, Step, T, Work
from ctclip_client.volume import Volume


def run_procedure(client: Client, procedure: Callable[[Session], Flow[T]]) -> T:
    """Run a procedure over a client's connection, as its own methods do.

    For questions that the client has no method for (`ctclip_client.doctor`); not public API.
    """
    return client._run(procedure(client._session))


class Client(BaseClient):
    """A connection to one Triton that serves CT-CLIP. Threads may share it.

    Every method raises a class of `ctclip_client.errors`: InvalidInput (the request is wrong),
    Unavailable (nobody there, or too busy), DeadlineExceeded, NotReady (the model is missing),
    ServerError (the server failed, or its answer is not what the contract promises). Unavailable is
    tried again first, see `retries`; nothing else is.
    """

    _grpc = grpc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Safe to call twice, and while other threads call: that ends them.

        After calls that were cut short (a timeout, an interruption) it waits up to 5 s for the
        server to let go of the shared memory.
        """
        channel = self._end()
        try:
            if channel is not None:
                channel.close()
        finally:
            if self._session.unreleased:
                with self._opened() as another:
                    self._run(release(self._session, RELEASE_PATIENCE_S), another)

    def check_ready(self, ensemble: str = PATHOLOGIES.name) -> None:
        """Ask whether the server would answer, for instance before thousands of scans are read.

        Raises what a call would: Unavailable, DeadlineExceeded (after 5 s at most), NotReady, ….
        """
        self._run(_procedures.ready(self._session, ensemble))

    def pathologies(self, volume: Volume) -> Scores:
        """Score one volume with the bank of findings that the release was exported with."""
        return self._run(_procedures.pathologies(self._session, volume))

    def explain(self, volume: Volume) -> Explanation:
        """Score one volume as `pathologies` does, with a map for each finding.

        `.relevance` is (F, T, H', W') float32; see `Explanation`, and `save_relevance` for images.
        """
        return self._run(_procedures.explain(self._session, volume))

    def classify(self, volume: Volume) -> Classification:
        """Score one volume with the trained head of the release: probabilities (C,) float32.

        NotReady, where the server's repository was exported without one.
        """
        return self._run(_procedures.classify(self._session, volume))

    def zero_shot(self, volume: Volume, prompts: Sequence[_procedures.Prompt]) -> Scores:
        """Score one volume with the caller's prompts.

        Args:
            volume: the scan.
            prompts: pairs (present, absent), or `Finding`s, which also give the pair a name. The
                two sentences have to differ; names need not, since results keep the order. More
                pairs than the server takes at once are sent in pieces; the scan is encoded once.
        """
        return self._run(_procedures.zero_shot(self._session, volume, prompts))

    def encode_image(self, volume: Volume) -> NDArray[np.float32]:
        """Embed one volume: (E,) float32 of length 1 (published models: E = 512)."""
        return self._run(_procedures.encode_image(self._session, volume))

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed any number of texts: (N, E) float32 of length 1, in the order given.

        Empty texts are allowed; what is longer than 512 tokens is cut by the server.
        """
        return self._run(_procedures.encode_text(self._session, texts))

    def _run(self, flow: Flow[T], channel: Any = None) -> T:
        if channel is None:
            self._check_usable()
        try:
            return self._drive(flow, channel)
        except BaseException as error:
            if getgeneratorstate(flow) == GEN_CLOSED:
                raise
            return self._drive(flow, channel, error)  # an interruption between two steps

    def _drive(self, flow: Flow[T], channel: Any, error: BaseException | None = None) -> T:
        try:
            step = next(flow) if error is None else flow.throw(error)
            while True:
                try:
                    outcome = self._perform(step, channel)
                except BaseException as failure:  # noqa: BLE001 (the procedure cleans up and raises)
                    step = flow.throw(failure)
                else:
                    step = flow.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _perform(self, step: Step, channel: Any) -> Any:
        if isinstance(step, Work):
            return step.function()
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        try:
            return self._call(step, channel)
        except Exception as error:
            self._check_ending(error)
            raise
