"""The server under measurement: one that is started for it, or one that runs already."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tritonclient.utils import InferenceServerException

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
from ctclip_export.engines.gpu import Gpu, NoGpu, read_gpu

_ERRORS: Mapping[str, type[CTClipError]] = {
    "StatusCode.UNAVAILABLE": Unavailable,
    "StatusCode.DEADLINE_EXCEEDED": DeadlineExceeded,
    "StatusCode.INVALID_ARGUMENT": InvalidInput,
    "StatusCode.NOT_FOUND": NotReady,
}
_QUESTION_S = 30.0
"""For what is no inference: without a limit, gRPC waits for ever."""


@dataclass(frozen=True)
class Server(Connection):
    """The way to it. process_id: of the embedded Triton, None for any other."""

    process_id: int | None = None

    @property
    def on_this_machine(self) -> bool:
        """Whether its address is a loopback one."""
        return Endpoint.parse(self.url).loopback

    def gpu(self) -> Gpu | None:
        """The first visible GPU of this machine, if the server is here and there is one."""
        try:
            return read_gpu() if self.on_this_machine else None
        except NoGpu:
            return None


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
