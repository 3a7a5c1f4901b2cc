"""From a CT file to 18 probabilities on the client's side, stages apart; in `worker_process`."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ctclip_bench.load.answers import Answer
from ctclip_bench.load.worker_process import Advance, Caller
from ctclip_client import Client
from ctclip_client.readers.format import Options
from ctclip_client.readers.registry import format_of
from ctclip_client.readers.to_volume import to_volume
from ctclip_client.transport.steps import SharedMemory

READ, TO_VOLUME, PACK, INFER = "read, decompress", "to volume", "pack", "infer"


@dataclass(frozen=True)
class FromFile:
    """ms: of READ, TO_VOLUME, PACK and INFER. whole_ms: of everything, from the file's name to the
    answer. core_s: seconds of a core. sent_bytes: of the tensors that travelled by `transport`."""

    ms: dict[str, float]
    whole_ms: float
    core_s: float
    sent_bytes: int
    transport: str
    release: str
    answer: bytes


@dataclass(frozen=True)
class FileJob:
    """A job for `worker`. shared_memory: whether it may be used, as by default."""

    path: Path
    shared_memory: bool

    def run(self, caller: Caller, advance: Advance) -> FromFile:
        """What `read_volume` and `Client.pathologies` do, over a connection that is open."""
        to = caller.connection
        memory: SharedMemory = "auto" if self.shared_memory else False
        with Client(
            to.url, to.timeout_s, shared_memory=memory, tls=to.tls, headers=to.headers
        ) as client:
            client.check_ready()
            cores = _core_s()
            start = time.perf_counter()
            form, options = format_of(self.path), Options()
            stored = form.read(self.path, form.series(self.path)[0], options)
            voxels = stored.voxels()
            read = time.perf_counter()
            volume = to_volume(replace(stored, voxels=lambda: voxels), self.path, options)
            made = time.perf_counter()
            scores = client.pathologies(volume)
            end = time.perf_counter()
            cores = _core_s() - cores
        advance(1)
        return FromFile(
            {
                READ: (read - start) * 1000,
                TO_VOLUME: (made - read) * 1000,
                PACK: scores.timings_ms["pack"],
                INFER: scores.timings_ms["infer"],
            },
            (end - start) * 1000, cores, scores.transport.bytes, scores.transport.kind,
            scores.provenance.release, Answer.of(scores).to_bytes(),
        )  # fmt: skip


def _core_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
