"""The embedded server for the time of a client's run: the entry point `embedded` of the group
`ctclip.servers`, by which `ctclip predict --repository` finds it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ctclip_server.embedded.server import EmbeddedTriton
from ctclip_server.self_check import check_embedded


@contextmanager
def serving(repository: Path, say: Callable[[str], None]) -> Iterator[str]:
    """Start Triton on free ports of loopback; give its gRPC address (host:port) once every model is
    ready and the release has passed its self-check; end it with the block.

    say: takes lines for a person.

    Raises: CTClipError, as `ctclip serve` does.
    """
    began = time.monotonic()
    with EmbeddedTriton(repository) as server:
        say(f"every model is ready after {time.monotonic() - began:.1f} s")
        for told in check_embedded(server, server.startup_timeout_s):
            say(told)
        yield server.grpc_url
