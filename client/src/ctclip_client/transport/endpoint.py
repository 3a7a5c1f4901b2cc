"""Where a server is and how a channel to it is opened."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc  # type: ignore[import-untyped]

from ctclip_client.errors import InvalidInput, Unreadable

SERVICE = "inference.GRPCInferenceService"
LARGEST_MESSAGE_BYTES = 2**31 - 1
"""gRPC and protobuf cannot carry more, on any server."""

_ADDRESS = re.compile(r"^(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})$")
_HEADER = re.compile(r"^[0-9a-z_.-]+$")


@dataclass(frozen=True)
class Tls:
    """PEM files of a TLS connection.

    root_certificates: who may sign the server's certificate; None: the roots of gRPC.
    private_key, certificate_chain: this client's own, where the server asks for one; both or none.
    """

    root_certificates: Path | str | None = None
    private_key: Path | str | None = None
    certificate_chain: Path | str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            InvalidInput: a key without a chain or a chain without a key.
            Unreadable: a file that cannot be read.
        """
        if (self.private_key is None) != (self.certificate_chain is None):
            raise InvalidInput(
                "tls: private_key and certificate_chain belong together, one is missing.",
                "Give both or none.",
            )
        return grpc.ssl_channel_credentials(
            _pem("root_certificates", self.root_certificates),
            _pem("private_key", self.private_key),
            _pem("certificate_chain", self.certificate_chain),
        )


@dataclass(frozen=True)
class Endpoint:
    """address: host:port. loopback: the host is this machine by its own name or address."""

    address: str
    loopback: bool

    @classmethod
    def parse(cls, url: str, field: str = "url") -> Endpoint:
        """Read `host:port`. field: what an error names.

        Raises:
            InvalidInput: anything else.
        """
        match = _ADDRESS.match(url) if isinstance(url, str) else None
        if match is None or not 0 < int(match["port"]) < 65536:
            raise InvalidInput(
                f"{field}: got {url!r}, expected host:port.",
                "The gRPC port of Triton, usually 8001, without http://: localhost:8001.",
            )
        host = match["host"].strip("[]")
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host.lower() == "localhost"
        return cls(url, loopback)

    def options(self, *, proxy: bool = True) -> list[tuple[str, int]]:
        """Channel arguments. proxy: whether http_proxy counts for hosts beyond this machine."""
        options = [
            ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
            # Otherwise a client made before its server came up may wait two minutes to look again,
            # and its first retries would be told of the failure before them.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # Otherwise one client inherits the connection, and the backoff, of another.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        # http_proxy is set in many hospitals, and leads nowhere from here.
        if self.loopback or not proxy:
            options.append(("grpc.enable_http_proxy", 0))
        return options


def checked_headers(headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Return gRPC metadata. Values may be secrets: no message shows them.

    Raises:
        InvalidInput: a name or value that gRPC cannot carry.
    """
    pairs = []
    for name, value in (headers or {}).items():
        key = name.lower() if isinstance(name, str) else ""
        if not _HEADER.match(key) or key.endswith("-bin") or key.startswith("grpc-"):
            raise InvalidInput(
                f"headers: {name!r} is no name of a text header.",
                "Letters, digits, '-', '_' and '.'; no '-bin' at the end, no 'grpc-' in front.",
            )
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidInput(
                f"headers: the value of {key} is not printable ASCII text.",
                "Encode it first, for instance in base64.",
            )
        pairs.append((key, value))
    return tuple(pairs)


def _pem(field: str, path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Unreadable(
            f"tls: {field}: {path}: {error.strerror or error}.", "Give a readable PEM file."
        ) from error
