"""Addresses and ports: chosen, and checked before the start."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import sys

from ctclip_client.errors import CTClipError, InvalidInput, Unavailable

Ports = tuple[int, int, int]
"""gRPC, HTTP, metrics."""
SERVICES = ("grpc", "http", "metrics")


def resolve(host: str) -> str:
    """The IPv4 address of `host`; one beyond this machine is warned about on standard error.

    Raises:
        InvalidInput: it has none.
    """
    try:
        address = str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise InvalidInput(
            f"host: {host!r} is no IPv4 address or name of this machine.", "Use 127.0.0.1."
        ) from error
    if not ipaddress.ip_address(address).is_loopback:
        print(
            f"WARNING: the embedded Triton will listen on {host}, beyond this machine.\n"
            "WARNING: its version 2.51 has known vulnerabilities, no authentication and no "
            "encryption: who reaches it can run code here.\n"
            "WARNING: for a network use the official container.",
            file=sys.stderr,
            flush=True,
        )
    return address


def check_ports(address: str, asked: Ports) -> None:
    """Check that Triton will be able to listen on the ports asked for (0 = any).

    Raises:
        InvalidInput: a port or the address cannot be used by anybody.
        Unavailable: another process holds a port.
    """
    named = [port for port in asked if port != 0]
    if len(set(named)) < len(named):
        raise InvalidInput(f"ports: got {asked} for {SERVICES}, expected three different ones.")
    for service, port in zip(SERVICES, asked, strict=True):
        if not 0 <= port <= 65535:
            raise InvalidInput(f"{service} port: got {port}, expected 0 to 65535 (0 = a free one).")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except PermissionError as error:
                raise InvalidInput(
                    f"{service} port: {port} needs root.", "Use a port of 1024 or above."
                ) from error
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise taken(port) from error
                raise InvalidInput(
                    f"host: cannot listen on {address}: {error.strerror}.", "Use 127.0.0.1."
                ) from error


def taken(port: int) -> CTClipError:
    """The error about a port that another process holds."""
    return Unavailable(
        f"Port {port} is taken by another process.",
        "End it, or choose another port; 0 takes a free one.",
    )


def choose_ports(address: str, asked: Ports) -> Ports:
    """Replace each 0 by a port that is free now; all held at once, so that they differ."""
    with contextlib.ExitStack() as held:
        ports = []
        for port in asked:
            if port == 0:
                probe = held.enter_context(socket.socket())
                probe.bind((address, 0))
                ports.append(probe.getsockname()[1])
            else:
                ports.append(port)
    return ports[0], ports[1], ports[2]
