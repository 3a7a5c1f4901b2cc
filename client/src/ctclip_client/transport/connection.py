"""How to reach a server, as one value that commands, checks and benchmarks hand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ctclip_client.transport.blocking import Client
from ctclip_client.transport.endpoint import Endpoint, Tls
from ctclip_client.transport.retries import RETRIES


@dataclass(frozen=True)
class Connection:
    """Plain values, so that they can cross into another process; nothing is read or sent yet.

    url: host:port of the server's gRPC service. timeout_s: seconds that one scan, or the loading of
    one model, may take. tls: files of a TLS connection, None for one without encryption. headers:
    sent with every call; they may be secrets, so they are never shown.
    """

    url: str
    timeout_s: float = 60.0
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def client(self, *, retries: int = RETRIES) -> Client:
        """The client that any user has; retries: 0 where a refusal is to be seen at once.

        Raises: InvalidInput, Unreadable.
        """
        return Client(self.url, self.timeout_s, retries=retries, tls=self.tls, headers=self.headers)

    def raw(self, *, proxy: bool = True) -> Any:
        """A `tritonclient.grpc.InferenceServerClient`, for single models and for model control.

        Its methods take `headers` and `client_timeout` themselves.

        proxy: whether http_proxy of the environment counts, as it does for the client; not for a
        server on this machine.

        Raises: InvalidInput, Unreadable.
        """
        from tritonclient.grpc import InferenceServerClient

        return InferenceServerClient(
            self.url,
            creds=None if self.tls is None else self.tls.credentials(),
            channel_args=Endpoint.parse(self.url).options(proxy=proxy),
        )
