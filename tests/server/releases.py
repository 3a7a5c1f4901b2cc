"""Requests without pause from several threads, and what a server's processes are, for releases."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tritonclient.utils import InferenceServerException

from ctclip_client import Client, Volume
from ctclip_client.errors import CTClipError
from ctclip_client.transport.connection import Connection
from ctclip_server import EmbeddedTriton
from ctclip_server.releases.control import Control

from ..conftest import edit_self_check
from ..tiny_release import X
from .conftest import Caller

PROMPTS = [("Nodule is present.", "Nodule is not present."), ("A stone.", "No stone.")]
KINDS = ("pathologies", "zero_shot", "image")


def ask(client: Client, kind: str, volume: Volume) -> tuple[str, bytes]:
    """(the release's name, the whole answer as bytes)"""
    if kind == "image":
        # Without the client's help: the embedding and the release that the same answer names.
        scores = client.zero_shot(volume, PROMPTS[:1])
        return scores.provenance.release, scores.image_embedding.tobytes()
    scores = (
        client.pathologies(volume) if kind == "pathologies" else client.zero_shot(volume, PROMPTS)
    )
    parts = (scores.logits, scores.probabilities, scores.image_embedding)
    return scores.provenance.release, b"".join(
        np.ascontiguousarray(part).tobytes() for part in parts
    )


def known_answers(url: str, volume: Volume) -> dict[tuple[str, str], bytes]:
    """(kind, release) -> answer, of a server with one release."""
    with Client(url) as client:
        answers = {kind: ask(client, kind, volume) for kind in KINDS}
    return {(kind, release): answer for kind, (release, answer) in answers.items()}


Ask = Callable[[str], tuple[str, bytes]]
"""kind of question -> (the release's name, the whole answer as bytes)"""


@contextmanager
def full(url: str, volume: Volume) -> Iterator[Ask]:
    """Asks a server of a whole export."""
    with Client(url, timeout_s=60) as client:
        yield lambda kind: ask(client, kind, volume)


@contextmanager
def tiny(url: str) -> Iterator[Ask]:
    """Asks a server of `tiny_release`, which has to say that it is ready, too."""
    caller = Caller(url)
    client = caller.client
    tensors = caller.inputs(X=X, SPACING=np.ones(3), RESCALE=np.array([1, 0], np.float32))

    def answer(kind: str) -> tuple[str, bytes]:
        if not client.is_model_ready(kind):
            raise InferenceServerException(f"{kind} is not ready")
        got = client.infer(kind, tensors, client_timeout=60)
        release = json.loads(got.as_numpy("PROVENANCE")[0])["release"]
        return release, got.as_numpy("Y").tobytes()

    try:
        yield answer
    finally:
        client.close()


@dataclass
class Load:
    """Threads that ask without pause; what came back, and when it was asked for."""

    asker: Callable[[], AbstractContextManager[Ask]]
    kinds: Sequence[str] = KINDS
    threads: int = 3
    answers: list[tuple[float, str, str, bytes]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._running = [
            threading.Thread(target=self._ask, args=(self.kinds[number % len(self.kinds)],))
            for number in range(self.threads)
        ]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join()

    def more(self, count: int) -> None:
        """Wait for that many further answers."""
        enough = len(self.answers) + count
        deadline = time.monotonic() + 120
        while len(self.answers) < enough and not self.failures:
            assert time.monotonic() < deadline, f"{len(self.answers)} of {enough} answers"
            time.sleep(0.01)

    def releases(self, since: float = 0.0) -> Counter[str]:
        return Counter(release for asked, _, release, _ in list(self.answers) if asked > since)

    def check(self, known: dict[tuple[str, str], bytes]) -> None:
        """No request failed, and each answer is, bit for bit, that of the release it names."""
        assert self.failures == []
        for _, kind, release, answer in self.answers:
            assert answer == known[kind, release], f"{kind}: not an answer of {release}"

    def _ask(self, kind: str) -> None:
        with self.asker() as ask_server:
            while not self._stop.is_set():
                asked = time.monotonic()
                try:
                    release, answer = ask_server(kind)
                except (CTClipError, InferenceServerException) as error:
                    self.failures.append(f"{kind}: {error}")
                else:
                    self.answers.append((asked, kind, release, answer))


class Stubs(threading.Thread):
    """Counts, while it runs, the processes that serve each model of a Triton."""

    def __init__(self, process_id: int) -> None:
        super().__init__()
        self.most: Counter[str] = Counter()
        self._process_id = process_id
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            self.most |= self.now()
            time.sleep(0.02)

    def now(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for child in psutil.Process(self._process_id).children():
            with suppress(psutil.Error):  # it has just ended
                if match := re.search(r"/repository/(\w+)/\d+/", " ".join(child.cmdline())):
                    found[match[1]] += 1
        return found

    def __enter__(self) -> Stubs:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()


def loaded(triton: EmbeddedTriton) -> dict[str, set[str]]:
    """Model -> versions that are ready."""
    found: dict[str, set[str]] = {}
    with Control(Connection(triton.grpc_url, 60)) as control:
        for name, versions in control.states().items():
            ready = {str(version) for version, state in versions.items() if state == "READY"}
            if ready:
                found[name] = ready
    return found


def copied(repository: Path, to: Path) -> Path:
    return Path(shutil.copytree(repository, to))


def configs(repository: Path) -> dict[str, str]:
    """Every config of a repository, by its place."""
    return {
        str(path.relative_to(repository)): path.read_text()
        for path in sorted(repository.rglob("*.pbtxt"))
    }


def edit_record(repository: Path, model: str, version: int = 1, **changes: Any) -> None:
    path = repository / model / str(version) / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename_release(repository: Path, name: str, version: int = 1) -> None:
    """Give a version another name, in everything that states it."""
    for path in repository.glob(f"*/{version}/provenance.json"):
        release = json.loads(path.read_text())["release"] | {"release": name}
        edit_record(repository, path.parents[1].name, version, release=release)
    edit_self_check(repository, version, release=name)
