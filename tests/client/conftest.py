"""Both clients in one form, and a real Triton whose one model answers wrongly, slowly or not at
all, as the request asks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from ctclip_client import AsyncClient, Client, Volume
from ctclip_client.contract import PATHOLOGIES, ZERO_SHOT, Ensemble
from ctclip_client.transport import asynchronous, blocking, shared_memory
from ctclip_server.embedded.server import EmbeddedTriton

BEHAVIOURS = (
    "good", "slow", "nan", "range", "shape", "dtype", "version", "count", "incomplete", "garbage",
    "invalid", "internal", "full", "unavailable", "unsupported", "busy", "held",
)  # fmt: skip
TLS_FOLDER = Path(__file__).parent / "tls"
Connect = Callable[..., Any]
"""Of a url and options: a client."""
_DTYPES = {"INT16": "INT16", "FP32": "FP32", "FP64": "FP64", "BYTES": "STRING"}


class Blocking:
    """An AsyncClient that one test body can use like a Client."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncClient(*arguments, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        return lambda *args: self.loop.run_until_complete(method(*args))

    def __repr__(self) -> str:
        return repr(self.client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.client.close())


@pytest.fixture(params=[Client, Blocking], ids=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a client and closes it in the end, used in the same way whichever it is."""
    made: list[Any] = []

    def connect(*arguments: Any, **options: Any) -> Any:
        made.append(request.param(*arguments, **options))
        return made[-1]

    yield connect
    for client in made:
        client.close()
        if isinstance(client, Blocking):
            client.loop.close()


@pytest.fixture(scope="session")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    """`ctclip_pathologies` as `misbehaving_model.py`; `ctclip_zero_shot` is not loaded."""
    folder = tmp_path_factory.mktemp("misbehaving") / "repository"
    for ensemble in (PATHOLOGIES, ZERO_SHOT):
        _write_model(folder, ensemble)
    with EmbeddedTriton(folder, model_control="explicit", load_models=[PATHOLOGIES.name]) as triton:
        yield triton


class Held:
    """The one instance of the misbehaving server, computing for whoever asked for "held"."""

    def __init__(self, server: EmbeddedTriton) -> None:
        folder = server.repository / PATHOLOGIES.name
        self._held, self._begun = folder / "held", folder / "begun"
        self._begun.unlink(missing_ok=True)
        self._held.touch()

    def wait(self) -> None:
        """Until it has begun."""
        deadline = time.monotonic() + 60
        while not self._begun.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> None:
        """Let it answer, also where it has not begun yet."""
        self._held.unlink(missing_ok=True)


@pytest.fixture
def held(misbehaving: EmbeddedTriton) -> Iterator[Held]:
    held = Held(misbehaving)
    yield held
    held.end()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT interrupts, also where a script has started the tests with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """What these tests have left, by names of their own: clients of other processes sweep, too.

    On a busy machine the server may compute for longer than `close` waits.
    """
    for module in (blocking, asynchronous):
        monkeypatch.setattr(module, "RELEASE_PATIENCE_S", 60.0)
    prefix = f"ctclip-apart-{os.getpid()}-"
    monkeypatch.setattr(shared_memory, "_PREFIX", prefix)
    return lambda: list(Path("/dev/shm").glob(f"{prefix}*"))  # noqa: S108


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    """The misbehaving server behind TLS, whose shared memory is for who knows the word.

    The key in tls/ protects nothing but this test; it was made for it and is valid for a century.
    """
    folder = tmp_path_factory.mktemp("guarded") / "repository"
    _write_model(folder, PATHOLOGIES)
    with EmbeddedTriton(
        folder,
        extra_arguments=[
            "--grpc-use-ssl=1",
            f"--grpc-server-cert={TLS_FOLDER / 'server.pem'}",
            f"--grpc-server-key={TLS_FOLDER / 'server.key'}",
            "--grpc-restricted-protocol=shared-memory:word=sesame",
        ],
    ) as triton:
        yield triton


@pytest.fixture
def ask_for() -> Callable[[str], Volume]:
    """Make a volume that asks the misbehaving server for one behaviour."""

    def make(name: str) -> Volume:
        voxels = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
        return Volume.from_array(voxels, (BEHAVIOURS.index(name) + 1, 1, 1), (2, -5))

    return make


def _write_model(folder: Path, ensemble: Ensemble) -> None:
    version = folder / ensemble.name / "1"
    version.mkdir(parents=True)
    model = (Path(__file__).parent / "misbehaving_model.py").read_text()
    (version / "model.py").write_text(model)
    (version.parent / "config.pbtxt").write_text(_config(ensemble))


def _config(ensemble: Ensemble) -> str:
    def tensors(kind: str) -> str:
        entries = []
        for tensor in getattr(ensemble, f"{kind}s"):
            dims = ", ".join(map(str, tensor.shape({})))
            entries.append(
                f'{{ name: "{tensor.name}", data_type: TYPE_{_DTYPES[tensor.dtype]}, '
                f"dims: [{dims}] }}"
            )
        return f"{kind} [ {', '.join(entries)} ]"

    behaviours = json.dumps(json.dumps(BEHAVIOURS))
    return "\n".join(
        (
            f'name: "{ensemble.name}"',
            'backend: "python"',
            "max_batch_size: 0",
            tensors("input"),
            tensors("output"),
            "instance_group [ { kind: KIND_CPU, count: 1 } ]",
            f'parameters {{ key: "behaviours" value {{ string_value: {behaviours} }} }}',
        )
    )
