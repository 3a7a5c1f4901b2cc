"""What both clients are made from: checked arguments and a channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from threading import Lock
from typing import Any

from ctclip_client.errors import InvalidInput
from ctclip_client.transport.endpoint import SERVICE, Endpoint, Tls, checked_headers
from ctclip_client.transport.steps import Rpc, Session, SharedMemory


class BaseClient:
    """The connection of a client. How its calls are waited for is what the two clients add."""

    _grpc: Any
    """`grpc` or `grpc.aio`: a module that makes channels."""

    def __init__(
        self,
        url: str = "localhost:8001",
        timeout_s: float = 60.0,
        *,
        shared_memory: SharedMemory = "auto",
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the connection; it is opened by the first call.

        Args:
            url: host:port of the server's gRPC service.
            timeout_s: seconds that one method may take, all its calls together. When they are
                over, the server may still be working. It holds its own mapping of shared memory, so
                letting go on this side is safe, and is asked to drop it later.
            shared_memory: how voxels travel. "auto": through system shared memory where the
                server is on this machine and takes it, otherwise in the gRPC message. True: only
                so, with an error where it is not possible. False: never.
            tls: the files of a TLS connection; None is a connection without encryption.
            headers: sent with every call, for instance
                {"triton-grpc-protocol-inference": KEY}. Never logged.

        Raises:
            InvalidInput: an argument is wrong.
            Unreadable: a file of `tls` cannot be read.
        """
        if not isinstance(timeout_s, int | float) or not 0 < timeout_s < math.inf:
            raise InvalidInput(f"timeout_s: got {timeout_s!r}, expected seconds, more than 0.")
        if shared_memory not in ("auto", True, False):
            raise InvalidInput(
                f"shared_memory: got {shared_memory!r}, expected 'auto', True or False."
            )
        self._session = Session(Endpoint.parse(url), float(timeout_s), shared_memory)
        self._metadata = checked_headers(headers)
        self._credentials = None if tls is None else tls.credentials()
        self._channel: Any = None
        self._closed = False
        self._lock = Lock()  # threads may share a client, and all are to have one channel

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._session.endpoint.address!r})"

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput("The client is closed.", "Make a new one, or call it inside `with`.")

    def _call(self, step: Rpc) -> Any:
        """The answer's bytes, or for asyncio what gives them."""
        with self._lock:
            self._check_open()
            if self._channel is None:  # here, where there is an event loop for it to belong to
                self._channel = self._opened()
            method = self._channel.unary_unary(f"/{SERVICE}/{step.method}")
        return method(step.payload, timeout=step.timeout_s, metadata=self._metadata)

    def _opened(self) -> Any:
        address, options = self._session.endpoint.address, self._session.endpoint.options()
        if self._credentials is None:
            return self._grpc.insecure_channel(address, options=options)
        return self._grpc.secure_channel(address, self._credentials, options=options)

    def _end(self) -> Any:
        """Be closed from now on. Return the channel, None where none was opened."""
        with self._lock:
            channel, self._channel, self._closed = self._channel, None, True
        return channel
