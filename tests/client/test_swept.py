"""Files in /dev/shm, and regions that the server maps: what a client that was killed, forgotten or
in a hurry has not given back, the next one does."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ctclip_client import Client, DeadlineExceeded
from ctclip_client.transport import blocking, shared_memory
from ctclip_server.embedded.server import EmbeddedTriton

from .conftest import Held
from .test_failures import SHARED_MEMORY, AskFor, registered

CALLER = """
import sys
from ctclip_client import Client, Volume
from ctclip_client.transport import shared_memory
import numpy as np
shared_memory._PREFIX = sys.argv[3]
Client(sys.argv[1]).pathologies(
    Volume.from_array(np.zeros((2, 3, 4), np.int16), (float(sys.argv[2]), 1, 1), (1, 0))
)
"""


def test_after_a_kill_the_next_client_tidies_up(
    misbehaving: EmbeddedTriton, ask_for: AskFor, left: Callable[[], list[Path]], held: Held
) -> None:
    spacing_mm = str(ask_for("held").spacing_mm[0])
    command = [
        sys.executable, "-c", CALLER, misbehaving.grpc_url, spacing_mm, shared_memory._PREFIX
    ]  # fmt: skip
    with subprocess.Popen(command) as killed:
        held.wait()
        killed.kill()
    assert left()
    held.end()
    with Client(misbehaving.grpc_url) as client:
        client.pathologies(ask_for("good"))
        assert not left()
    assert not registered(misbehaving)


@pytest.mark.usefixtures("left")
def test_only_regions_without_an_owner_are_swept(
    misbehaving: EmbeddedTriton, ask_for: AskFor
) -> None:
    prefix = f"{shared_memory._PREFIX}{os.getpid()}-"
    dead, alive, folder, link = (
        SHARED_MEMORY / f"{prefix}{kind}" for kind in ("dead", "alive", "folder", "link")
    )
    other = SHARED_MEMORY / f"other-{prefix}"
    try:
        for path in (dead, alive, other):
            path.write_bytes(b"content")
        folder.mkdir()
        link.symlink_to(other)
        with alive.open("rb") as owner, Client(misbehaving.grpc_url) as client:
            fcntl.flock(owner, fcntl.LOCK_EX)
            client.pathologies(ask_for("good"))
        assert [path.exists() for path in (dead, alive, folder, link, other)] == [
            False,
            *[True] * 4,
        ]
    finally:
        for path in (dead, alive, link, other):
            path.unlink(missing_ok=True)
        folder.rmdir()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_the_server_computes_for_longer_than_close_waits(
    misbehaving: EmbeddedTriton,
    ask_for: AskFor,
    left: Callable[[], list[Path]],
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt() -> None:
        held.wait()
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(blocking, "RELEASE_PATIENCE_S", 0.1)
        with Client(misbehaving.grpc_url) as client:
            threading.Thread(target=interrupt).start()
            with pytest.raises(KeyboardInterrupt):
                client.pathologies(ask_for("held"))
            assert not left()
    (path,) = left()
    assert path.stat().st_size == 0
    held.end()
    with Client(misbehaving.grpc_url) as client:
        client.pathologies(ask_for("good"))
    assert not left()
    assert not registered(misbehaving)


def test_a_client_that_nobody_closes_leaves_it_to_the_next_one(
    misbehaving: EmbeddedTriton, ask_for: AskFor, left: Callable[[], list[Path]], held: Held
) -> None:
    forgotten = Client(misbehaving.grpc_url, timeout_s=3.0)
    with pytest.raises(DeadlineExceeded):
        forgotten.pathologies(ask_for("held"))
    assert registered(misbehaving)
    del forgotten
    gc.collect()
    assert left()
    held.end()
    with Client(misbehaving.grpc_url) as client:
        client.pathologies(ask_for("good"))
    assert not left()
    assert not registered(misbehaving)
