"""From a CT file to 18 probabilities on the client's side, stages apart; in `worker`'s process."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ctclip_bench.load.asking import Advance, Asked, Caller
from ctclip_client import Client
from ctclip_client.readers.format import Options
from ctclip_client.readers.registry import format_of
from ctclip_client.readers.to_volume import to_volume

READ, TO_VOLUME, PACK, INFER = "read, decompress", "to volume", "pack", "infer"


@dataclass(frozen=True)
class FileJob:
    """A job for `worker`. number: of the file, for its answer. shared_memory: whether it may be
    used, as by default."""

    path: Path
    number: int
    shared_memory: bool

    def run(self, caller: Caller, advance: Advance) -> tuple[Asked, dict[str, float], float]:
        """What `read_volume` and `Client.pathologies` do, over a connection that is open.

        Returns the answer, timed from the file's name; milliseconds of READ, TO_VOLUME, PACK and
        INFER; seconds of a core.
        """
        to = caller.connection
        with Client(
            to.url, to.timeout_s, shared_memory="auto" if self.shared_memory else False,
            tls=to.tls, headers=to.headers,
        ) as client:  # fmt: skip
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
        ms = {READ: (read - start) * 1000, TO_VOLUME: (made - read) * 1000}
        ms |= {name: scores.timings_ms[name] for name in (PACK, INFER)}
        return Asked(self.number, start, end, scores), ms, cores


def _core_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
