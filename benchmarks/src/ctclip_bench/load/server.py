"""The server under measurement: one that is started for it, or one that runs already."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from ctclip_bench.load.memory import process_memory
from ctclip_bench.load.statistics import Spent, read_statistics, settled
from ctclip_client import (
    CTClipError,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    ServerError,
    Unavailable,
)
from ctclip_client.contract import MODELS
from ctclip_client.release.repository import (
    backend_of,
    check_variant,
    config_path,
    read_config,
)
from ctclip_client.transport.connection import Connection
from ctclip_client.transport.endpoint import Endpoint
from ctclip_client.transport.infer import RELEASE_PATIENCE_S
from ctclip_client.transport.shared_memory import Region
from ctclip_export.engines.gpu import Gpu, NoGpu, read_gpu
from ctclip_server.embedded.server import EmbeddedTriton

_ERRORS: Mapping[str, type[CTClipError]] = {
    "StatusCode.UNAVAILABLE": Unavailable,
    "StatusCode.DEADLINE_EXCEEDED": DeadlineExceeded,
    "StatusCode.INVALID_ARGUMENT": InvalidInput,
    "StatusCode.NOT_FOUND": NotReady,
}
_AGAIN_S = 0.2
_BRIEF_S, _QUESTION_S = 5.0, 30.0
"""Limits for a sign of life, and for what is no inference: without one, gRPC waits for ever."""


@dataclass(frozen=True)
class Server(Connection):
    """The way to it. process_id: of the embedded Triton, None for any other."""

    process_id: int | None = None

    @property
    def on_this_machine(self) -> bool:
        """Whether its address is a loopback one."""
        return Endpoint.parse(self.url).loopback

    def memory_bytes(self) -> int | None:
        """Main memory of the embedded server's processes; None for any other, or if it is gone."""
        return None if self.process_id is None else process_memory(self.process_id)

    def gpu(self) -> Gpu | None:
        """The first visible GPU of this machine, if the server is here and there is one."""
        try:
            return read_gpu() if self.on_this_machine else None
        except NoGpu:
            return None

    def silence(self) -> CTClipError | None:
        """Why it does not answer a question of a few seconds; None if it does, whatever it says."""
        brief = replace(self, timeout_s=min(_BRIEF_S, self.timeout_s))
        try:
            with brief.client() as client:
                client.check_ready()
        except CTClipError as error:
            return error if isinstance(error, Unavailable | DeadlineExceeded) else None
        return None


@contextmanager
def embedded(repository: Path, config_name: str | None, timeout_s: float) -> Iterator[Server]:
    """Start the embedded Triton over a repository; it is stopped at the end, whatever happens."""
    with EmbeddedTriton(repository, config_name=config_name) as server:
        yield Server(server.grpc_url, timeout_s, process_id=server.process_id)


def running(connection: Connection) -> Server:
    """The server that a connection leads to."""
    return Server(connection.url, connection.timeout_s, connection.tls, connection.headers)


class Raw:
    """For single models, and for questions: tritonclient with `ctclip_client.errors`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.connection = server.raw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, method: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Call a method of the connection, with this server's headers and in limited time."""
        more.setdefault("client_timeout", min(_QUESTION_S, self.server.timeout_s))
        try:
            return method(*arguments, headers=dict(self.server.headers), **more)
        except InferenceServerException as error:
            raise self.translated(error) from error

    def translated(self, error: Any) -> CTClipError:
        """The client's error for one of tritonclient, by its status code."""
        kind = _ERRORS.get(str(error.status()), ServerError)
        return kind(
            f"{self.server.url}: {error.message()} ({error.status()}).",
            "Is the server up, and is this its gRPC port? ctclip doctor HOST:PORT looks closer.",
        )

    def statistics(self) -> dict[str, Spent]:
        """What every model has done since the server started, when nothing is under way."""
        read = self.connection.get_inference_statistics
        return settled(lambda: read_statistics(self.ask(read)))


@contextmanager
def shared_region(raw: Raw, array: NDArray[np.float32]) -> Iterator[str]:
    """The name of a region of system shared memory that holds an array and that the server has
    mapped; "" where it is on another machine, does not allow it, or there is too little memory.
    """
    with ExitStack() as stack:
        name = ""
        # There is too little of it, or Triton forbids it, as by default since 26.04.
        with suppress(OSError, CTClipError):
            if raw.server.on_this_machine:
                region = Region(array.nbytes)
                # The name goes first, so that a server which has yet to map it cannot any more.
                stack.callback(_forget, raw, region)
                stack.callback(region.close)
                region.create()
                register = raw.connection.register_system_shared_memory
                region.offered = True
                try:
                    raw.ask(register, region.name, region.key, region.nbytes)
                except CTClipError as error:
                    region.offered = isinstance(error, DeadlineExceeded)
                    raise
                region.write(np.ascontiguousarray(array).view(np.int16))
                name = region.name
        yield name


def _forget(raw: Raw, region: Region) -> None:
    """Let the server forget a region, which it refuses while it still reads it."""
    end_s = time.monotonic() + RELEASE_PATIENCE_S
    while region.offered and time.monotonic() < end_s:
        try:
            raw.ask(raw.connection.unregister_system_shared_memory, region.name)
        except ServerError:
            time.sleep(_AGAIN_S)
        except CTClipError:  # the server has gone, and its mapping with it
            return
        else:
            return


def without_address(text: str, address: str) -> str:
    """The same without host and port, as gRPC writes them, too: results name no machine."""
    text = re.sub(r"\b(ipv4|ipv6|dns):[^\s;,]+", "the server", text)
    text = text.replace(address, "the server")
    host = address.rpartition(":")[0]
    return re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "the server", text) if host else text


def describe_server(server: Server, repository: Path, config_name: str | None) -> dict[str, Any]:
    """Version, models and how each of them runs.

    Raises: InvalidInput if the server does not run what `config_name` says: numbers under a wrong
    name are worse than none.
    """
    wanted = expected_backends(repository, config_name)
    models: dict[str, Any] = {}
    with Raw(server) as raw:
        version = str(raw.ask(raw.connection.get_server_metadata).version)
        for model in MODELS:
            config = raw.ask(raw.connection.get_model_config, model.name).config
            backend = backend_of(config)
            if backend != wanted.get(model.name, backend):
                raise InvalidInput(
                    f"{model.name}: {server.url} runs it on {backend}; config "
                    f"{config_name or 'default'} of {repository} says {wanted[model.name]}.",
                    "Start the server with that --model-config-name, or name the one it runs with "
                    "(--config-name).",
                )
            models[model.name] = {
                "backend": backend,
                "max_batch_size": config.max_batch_size,
                "instances": [
                    f"{group.count} × {group.Kind.Name(group.kind)}"
                    for group in config.instance_group
                ],
            }
    return {
        "kind": "embedded" if server.process_id is not None else "already running",
        "triton": version,
        "on_this_machine": server.on_this_machine,
        "models": models,
    }


def expected_backends(repository: Path, config_name: str | None) -> dict[str, str]:
    """Model -> backend, by the configs that Triton would take. Raises: InvalidInput, Unreadable."""
    if config_name is not None:
        check_variant(repository, config_name)
    return {
        model.name: backend_of(read_config(config_path(repository / model.name, config_name)))
        for model in MODELS
    }
