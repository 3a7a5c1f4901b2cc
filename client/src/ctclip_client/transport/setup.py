"""What both clients are made from: checked arguments and a channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]

from ctclip_client.errors import InvalidInput
from ctclip_client.transport.endpoint import Endpoint, Tls, checked_headers
from ctclip_client.transport.steps import Session, SharedMemory


@dataclass(frozen=True)
class Setup:
    """session: what procedures need. metadata: may hold secrets, so it is never shown."""

    session: Session
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    credentials: grpc.ChannelCredentials | None = field(repr=False)

    @classmethod
    def checked(
        cls,
        url: str,
        timeout_s: float,
        shared_memory: SharedMemory,
        tls: Tls | None,
        headers: Mapping[str, str] | None,
    ) -> Setup:
        """Check a client's arguments.

        Raises:
            InvalidInput: names the one that is wrong.
            Unreadable: a file of `tls` cannot be read.
        """
        if (
            not isinstance(timeout_s, int | float)
            or not math.isfinite(timeout_s)
            or not timeout_s > 0
        ):
            raise InvalidInput(f"timeout_s: got {timeout_s!r}, expected seconds, more than 0.")
        if shared_memory not in ("auto", True, False):
            raise InvalidInput(
                f"shared_memory: got {shared_memory!r}, expected 'auto', True or False."
            )
        return cls(
            Session(Endpoint.parse(url), float(timeout_s), shared_memory),
            checked_headers(headers),
            None if tls is None else tls.credentials(),
        )

    def open(self, module: Any) -> Any:
        """Make a channel with `grpc` or `grpc.aio`; nothing is sent yet."""
        endpoint = self.session.endpoint
        if self.credentials is None:
            return module.insecure_channel(endpoint.address, options=endpoint.options())
        return module.secure_channel(endpoint.address, self.credentials, options=endpoint.options())


def closed() -> InvalidInput:
    """The error of a call after `close`."""
    return InvalidInput("The client is closed.", "Make a new one, or call it inside `with`.")
