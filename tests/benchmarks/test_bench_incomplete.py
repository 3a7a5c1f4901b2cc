"""What is kept where part of a measurement cannot be had: a level that fails, too little memory."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctclip_bench.load import measure as measure_module
from ctclip_bench.load.load import Workload
from ctclip_bench.load.server import Raw, Server, without_address
from ctclip_bench.load.workloads import vision_batches
from ctclip_client.cli.program import main
from ctclip_client.errors import CTClipError, DeadlineExceeded, Unavailable
from ctclip_server.embedded.server import EmbeddedTriton

SHM = Path("/dev/shm")  # noqa: S108 (where POSIX shared memory lives on Linux)


# --- shared memory ---


def left_behind() -> set[str]:
    mine = f"ctclip-client-{os.getpid()}-"  # the bare number is part of others' names, too
    return {path.name for path in SHM.iterdir() if path.name.startswith(mine)}


def test_volumes_travel_in_shared_memory(server: EmbeddedTriton) -> None:
    voxels = np.arange(24, dtype=np.float32).reshape(2, 1, 2, 2, 3)
    with vision_batches(Server(server.grpc_url, 60), voxels) as batches:
        assert batches.transport == "shared_memory"
        assert len(left_behind()) == 1  # by which the next client finds it, were this one killed
        with Raw(Server(server.grpc_url, 60)) as raw:
            assert len(raw.ask(raw.connection.get_system_shared_memory_status).regions) == 1
    assert not left_behind()
    with Raw(Server(server.grpc_url, 60)) as raw:
        assert not raw.ask(raw.connection.get_system_shared_memory_status).regions


def test_memory_that_is_too_small_is_seen_before_anything_is_written(
    server: EmbeddedTriton,
) -> None:
    """A sparse file would be made, and the process die of SIGBUS while it is filled."""
    room = os.statvfs(SHM)
    too_much = room.f_blocks * room.f_frsize // 4 + 2**28
    voxels = np.broadcast_to(np.float32(0), (too_much,))  # takes no memory here
    with vision_batches(Server(server.grpc_url, 60), voxels) as batches:
        assert batches.transport == "grpc"
    assert not left_behind()


def test_another_machine_is_offered_none() -> None:
    with vision_batches(Server("ct.example:8001", 60), np.zeros((1, 1), np.float32)) as batches:
        assert batches.transport == "grpc"


# --- levels ---


def failing(texts: Callable[..., Workload[Any]]) -> Callable[..., Workload[Any]]:
    """Of the text levels, one cannot connect, another gets nothing but errors."""

    def work(server: Server, job: Any, count: int, agreement: Any) -> Workload[Any]:
        @contextmanager
        def connect() -> Iterator[Callable[[int], Any]]:
            if count == 2:
                raise Unavailable(f"{server.url}: its queue is full.")

            def ask(number: int) -> Any:
                raise DeadlineExceeded(f"no answer from {server.url} in 1 s.")

            yield ask

        good = texts(server, job, count, agreement)
        return good if count in (1, 4) else Workload(connect, good.inspect)

    return work


def test_a_level_that_fails_does_not_take_the_others_with_it(
    server: EmbeddedTriton,
    repository: Path,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measure_module, "texts", failing(measure_module.texts))
    flags = ["--url", server.grpc_url, "--scans", str(phantoms), "--out", str(tmp_path)]
    load = ["--concurrency", "1", "--batch", "0", "--texts", "1,2,3,4", "--requests", "2"]
    command = ["bench", "--repository", str(repository), *flags, *load, "--warmup", "0"]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("PARITY PASS")
    assert "PASS every answer under load" in printed
    assert "FAILED Text encoder, 2 texts: Unavailable: the server: its queue is full." in printed
    assert "FAILED Text encoder, 3 texts: DeadlineExceeded" in printed
    assert "per s" in printed
    (path,) = tmp_path.iterdir()
    assert path.stem.endswith("-FAILED")
    content = json.loads(path.read_text())
    assert server.grpc_url not in path.read_text()
    assert (content["passed"], content["parity"]["verdict"]) == (False, "PASS")
    assert [level["n"] for level in content["whole_path"] + content["texts"]] == [2, 2, 0, 0, 2]
    assert [level["failure"] for level in content["texts"]] == [
        None, "Unavailable: the server: its queue is full.",
        "DeadlineExceeded: no answer from the server in 1 s.", None,
    ]  # fmt: skip
    assert content["texts"][2]["errors"] == {"DeadlineExceeded": 2}


def test_a_server_that_has_gone_is_not_waited_for_level_after_level(
    server: EmbeddedTriton,
    repository: Path,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each of the others would cost --timeout-s, ten minutes if nothing is said."""
    asked: list[str] = []

    def gone(*_: Any) -> Workload[Any]:
        @contextmanager
        def connect() -> Iterator[Callable[[int], Any]]:
            raise DeadlineExceeded(f"no answer from {server.grpc_url} in 1 s.")
            yield  # pragma: no cover

        return Workload(connect, lambda _, __: "")

    def silence(server: Server) -> CTClipError | None:
        asked.append(server.url)
        return Unavailable(f"{server.url}: no Triton answers there.")

    monkeypatch.setattr(measure_module, "whole_path", gone)
    monkeypatch.setattr(measure_module, "prepared", None)  # calling it would raise TypeError
    monkeypatch.setattr(Server, "silence", silence)
    flags = ["--url", server.grpc_url, "--scans", str(phantoms), "--out", str(tmp_path)]
    load = ["--concurrency", "1,2", "--rate", "3", "--batch", "1,6", "--texts", "1"]
    assert main(["bench", "--repository", str(repository), *flags, *load, "--json"]) == 4
    printed = capsys.readouterr()
    (path,) = tmp_path.iterdir()
    assert path.stem.endswith("-FAILED")
    assert printed.out == path.read_text()
    *_, cause, remedy = printed.err.splitlines()
    assert cause.startswith("error: ")
    assert "stopped answering at 'Whole path, 1 client'" in cause
    assert str(path) in remedy
    assert asked == [server.grpc_url]
    content = json.loads(printed.out)
    assert server.grpc_url not in printed.out
    assert (content["passed"], content["parity"]["verdict"]) == (False, "PASS")
    kinds = [content[kind] for kind in ("whole_path", "arrivals", "vision", "texts")]
    assert [len(levels) for levels in kinds] == [2, 1, 2, 1]
    assert [level["sent_as"] for level in content["vision"]] == ["1", "4 + 2"]
    first, *others = (level["failure"] for levels in kinds for level in levels)
    assert first == "DeadlineExceeded: no answer from the server in 1 s."
    reason = "Unavailable: the server: no Triton answers there."
    assert set(others) == {f"not tried: the server no longer answers ({reason})"}


@pytest.mark.parametrize(
    ("listens", "limit_s", "kind"),
    [(False, 20, Unavailable), (True, 1, DeadlineExceeded)],
    ids=["gone", "hangs"],
)
def test_whether_a_server_answers_is_found_out_briefly(
    listens: bool, limit_s: float, kind: type[CTClipError]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listens:
            taken.listen()  # and never says anything
        silence = Server(f"127.0.0.1:{taken.getsockname()[1]}", limit_s).silence()
    assert isinstance(silence, kind)


def test_questions_to_a_server_that_hangs_end() -> None:
    """Statistics are asked between the levels."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            Raw(Server(f"127.0.0.1:{taken.getsockname()[1]}", 1)) as raw,
            pytest.raises((Unavailable, DeadlineExceeded)),
        ):
            raw.statistics()


def test_a_server_that_answers_is_not_silent(server: EmbeddedTriton) -> None:
    assert Server(server.grpc_url, 60).silence() is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ct.example:8001: connection to ipv4:192.0.2.7:8001 refused", "ct.example:8001"),
        ("[2001:db8::7]:8001: last error ipv6:[2001:db8::7]:8001; gone", "[2001:db8::7]:8001"),
        ("ct.example is unknown", "ct.example:8001"),
        ("ipv4:192.0.2.7:8001: refused", "192.0.2.7:8001"),
    ],
)
def test_a_reason_names_no_host(text: str, address: str) -> None:
    said = without_address(text, address)
    assert "the server" in said
    assert not re.search(r"example|192|db8|8001", said)
