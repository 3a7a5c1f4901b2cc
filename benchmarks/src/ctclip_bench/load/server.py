"""What the server under measurement is, in words that name no machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ctclip_client import InvalidInput
from ctclip_client.contract import MODELS
from ctclip_client.release.repository import backend_of, check_variant, config_path, read_config
from ctclip_client.transport.connection import Connection
from ctclip_client.transport.endpoint import Endpoint
from ctclip_server.releases.control import Control


def without_address(text: str, address: str) -> str:
    """The same without host and port, as gRPC writes them, too: results name no machine."""
    text = re.sub(r"\b(ipv4|ipv6|dns):[^\s;,]+", "the server", text)
    text = text.replace(address, "the server")
    host = address.rpartition(":")[0]
    return re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "the server", text) if host else text


def describe_server(
    connection: Connection, repository: Path, config_name: str | None
) -> dict[str, Any]:
    """Version, models and how each of them runs.

    Raises: InvalidInput if the server does not run what `config_name` says: numbers under a wrong
    name are worse than none.
    """
    if config_name is not None:
        check_variant(repository, config_name)
    models: dict[str, Any] = {}
    with Control(connection) as control:
        for model in MODELS:
            config = control.config(model.name)
            backend = backend_of(config)
            wanted = backend_of(read_config(config_path(repository / model.name, config_name)))
            if backend != wanted:
                raise InvalidInput(
                    f"{model.name}: {connection.url} runs it on {backend}; config "
                    f"{config_name or 'default'} of {repository} says {wanted}.",
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
            "triton": control.server_version(),
            "on_this_machine": Endpoint.parse(connection.url).loopback,
            "models": models,
        }
