"""What both clients are made from: checked arguments and a channel."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Mapping
from threading import Lock
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped]

from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_client.transport.endpoint import SERVICE, Endpoint, Tls, checked_headers
from ctclip_client.transport.retries import RETRIES
from ctclip_client.transport.shared_memory import SUPPORTED, bequeath
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
        retries: int = RETRIES,
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
            retries: how often a call is repeated at most where it met `Unavailable`: nobody
                answers, the connection broke, the queue is full. Never after bad input, a deadline
                or a failure of the server. Pauses grow from half a second to ten seconds, inside of
                timeout_s; three take 2 to 4 s. Where no server has ever answered this client they
                are five times shorter, so that a wrong port is told within a second. 0: none.
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
        if shared_memory is True and not SUPPORTED:
            raise InvalidInput(
                "shared_memory: got True, which only Linux has.", "Leave it at 'auto'."
            )
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise InvalidInput(f"retries: got {retries!r}, expected a whole number, 0 or more.")
        self._session = Session(Endpoint.parse(url), float(timeout_s), shared_memory, retries)
        # A client that nobody closes leaves to the next one what its server still holds.
        weakref.finalize(self, bequeath, self._session.unreleased)
        self._metadata = checked_headers(headers)
        self._credentials = None if tls is None else tls.credentials()
        self._channel: Any = None
        self._owner = os.getpid()
        self._closed = False
        self._lock = Lock()  # threads may share a client, and all are to have one channel

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._session.endpoint.address!r})"

    def __reduce__(self) -> NoReturn:
        raise InvalidInput(
            f"{self!r}: a connection, which can neither be pickled nor copied.",
            "Hand on the url and the other arguments, and make a client where it is used.",
        )

    def _check_usable(self) -> None:
        if self._closed:
            raise InvalidInput("The client is closed.", "Make a new one, or call it inside `with`.")
        if self._channel is not None and self._owner != os.getpid():
            raise InvalidInput(
                f"{self!r}: it was connected in process {self._owner}, and is used in a fork.",
                "Make a client in each process, after the fork.",
            )

    def _call(self, step: Rpc, channel: Any) -> Any:
        """The answer's bytes, or for asyncio what gives them. channel: None is the client's own."""
        if channel is None:
            self._check_usable()
            with self._lock:
                self._check_usable()
                if self._channel is None:  # here, where there is an event loop for it to belong to
                    self._owner = os.getpid()
                    self._channel = self._opened()
                channel = self._channel
        method = channel.unary_unary(f"/{SERVICE}/{step.method}")
        return method(step.payload, timeout=step.timeout_s, metadata=self._metadata)

    def _check_ending(self, error: BaseException) -> None:
        """Say it where `close` has ended a call: gRPC has no good word for that."""
        if isinstance(error, CTClipError) or not self._closed:
            return
        if isinstance(error, grpc.RpcError) and error.code() is not grpc.StatusCode.CANCELLED:
            return
        raise InvalidInput(
            "The client was closed during this call.", "Close it when its calls have ended."
        ) from error

    def _opened(self) -> Any:
        address, options = self._session.endpoint.address, self._session.endpoint.options()
        if self._credentials is None:
            return self._grpc.insecure_channel(address, options=options)
        return self._grpc.secure_channel(address, self._credentials, options=options)

    def _end(self) -> Any:
        """Be closed from now on. Return the channel, None where there is none to close."""
        if self._owner != os.getpid():  # a fork: all of it is the other process's
            self._closed = True
            self._session.unreleased.clear()
            return None
        with self._lock:
            channel, self._channel, self._closed = self._channel, None, True
        for region in tuple(self._session.in_use):
            self._session.give_up(region)
        return channel
