"""A running Triton, told to load and asked what it serves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from ctclip_client.errors import (
    CTClipError,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    ServerError,
    Unavailable,
)
from ctclip_client.system.terminal import command_line
from ctclip_client.transport.connection import Connection
from ctclip_client.transport.failures import NOBODY_REMEDY
from ctclip_server.embedded.diagnosis import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

POLL_S = 0.1
_ASK_TIMEOUT_S = 10.0


class Control:
    """Model control of one server, over gRPC.

    Errors are the client library's: Unavailable, DeadlineExceeded, ServerError, …
    """

    def __init__(self, connection: Connection, *, flags: str = "", proxy: bool = True) -> None:
        """Describe the server; nothing is sent yet.

        Args:
            connection: `timeout_s` is for the loading of one model, or one inference.
            flags: how a command line reaches the same server, quoted for a shell.
            proxy: whether http_proxy of the environment counts; not for a server on this machine.

        Raises:
            InvalidInput: the address is none.
            Unreadable: a file of its TLS connection cannot be read.
        """
        self.url = connection.url
        self.flags = flags or command_line("--url", connection.url)
        self._briefly: dict[str, Any] = {
            "headers": dict(connection.headers),
            "client_timeout": min(_ASK_TIMEOUT_S, connection.timeout_s),
        }
        self._patiently = {**self._briefly, "client_timeout": connection.timeout_s}
        self._client = connection.raw(proxy=proxy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def config(self, model: str) -> Any:
        """The config that a loaded model runs with, as Triton's ModelConfig message.

        Raises:
            NotReady: it is not loaded.
        """
        get = self._client.get_model_config
        return self._ask(model, lambda: get(model, **self._briefly)).config

    def states(self) -> dict[str, dict[int, str]]:
        """Model -> version -> `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`."""
        get = self._client.get_model_repository_index
        index = self._ask("", lambda: get(**self._briefly))
        found: dict[str, dict[int, str]] = {}
        for entry in index.models:
            versions = found.setdefault(entry.name, {})
            if entry.version:
                versions[int(entry.version)] = entry.state
        return found

    def versions(self, model: str) -> tuple[int, ...]:
        """Versions of a model that answer, ascending; asked without model control.

        Raises:
            NotReady: there is none.
        """
        get = self._client.get_model_metadata
        return tuple(
            sorted(map(int, self._ask(model, lambda: get(model, **self._briefly)).versions))
        )

    def server_version(self) -> str:
        """Of Triton."""
        get = self._client.get_server_metadata
        return str(self._ask("", lambda: get(**self._briefly)).version)

    def statistics(self) -> Any:
        """What every model has done since the start, as Triton's ModelStatisticsResponse."""
        get = self._client.get_inference_statistics
        return self._ask("", lambda: get(**self._briefly))

    def load(self, model: str) -> None:
        """Load a model, or load it again, as its config on disk says; return when that is done.

        Raises:
            ServerError: it does not load; what was loaded before still is.
        """
        load = self._client.load_model
        self._ask(model, lambda: load(model, **self._patiently))

    def provenance(self, model: str, version: int) -> dict[str, Any]:
        """What `model`, which hands scan metadata on, says about the release it belongs to."""
        import numpy as np

        scan: dict[str, NDArray[Any]] = {
            "SPACING": np.ones(3),
            "RESCALE": np.array([1, 0], np.float32),
        }
        answer = self.infer(model, version, scan)
        return dict(json.loads(answer["PROVENANCE"][0]))

    def infer(
        self, model: str, version: int | None, inputs: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Run one version of a model, or the one that answers; inputs and outputs by name."""
        from tritonclient import grpc
        from tritonclient.utils import np_to_triton_dtype

        tensors = []
        for name, array in inputs.items():
            tensor = grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        infer = self._client.infer
        number = "" if version is None else str(version)
        answer = self._ask(model, lambda: infer(model, tensors, number, **self._patiently))
        names = [output.name for output in answer.get_response().outputs]
        return {name: answer.as_numpy(name) for name in names}

    def wait_until_unloaded(
        self, models: tuple[str, ...], keep: int, timeout_s: float
    ) -> dict[str, list[int]]:
        """Wait until no other version than `keep` is left; return those that still are.

        A version that is being unloaded finishes its requests first.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            states = self.states()
            left = {
                model: versions
                for model in models
                if (
                    versions := [
                        version
                        for version, state in states.get(model, {}).items()
                        if version != keep and state != "UNAVAILABLE"
                    ]
                )
            }
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(POLL_S)

    def _ask(self, model: str, call: Callable[[], Any]) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return call()
        except InferenceServerException as error:
            raise self._translated(model, error) from error

    def _translated(self, model: str, error: Any) -> CTClipError:
        """By status code, never by text."""
        status = str(error.status() or "").rpartition(".")[2]
        said = one_line(str(error.message() or "no reason given"))
        what = f"{self.url}: {model}: {said}" if model else f"{self.url}: {said}"
        if status == "UNAVAILABLE":
            if not self._is_live():
                return Unavailable(
                    f"{self.url}: no Triton answers there ({said}).",
                    NOBODY_REMEDY,
                )
            return NotReady(what, "Is the model loaded, and model control allowed?")
        if status == "NOT_FOUND":
            return NotReady(what, "Serve the whole repository.")
        if status == "DEADLINE_EXCEEDED":
            return DeadlineExceeded(
                f"{what} (no answer in time)", "Allow more with --timeout-s; it may still load."
            )
        if status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return InvalidInput(what, "Give the headers that it asks for: --headers-file FILE.")
        return ServerError(what, "Look into the server's log.")

    def _is_live(self) -> bool:
        from tritonclient.utils import InferenceServerException

        try:
            return bool(self._client.is_server_live(client_timeout=_ASK_TIMEOUT_S))
        except InferenceServerException:
            return False
