"""What `bench serve`, `file` and `growth` have in common: a server, and the result's head."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctclip_bench.load.answers import Question, Repeat
from ctclip_bench.load.judged import Judged, check_release, judge_answers, repeat_of
from ctclip_bench.load.memory import gpu_memory, process_memory
from ctclip_bench.load.server import (
    Raw,
    Server,
    describe_server,
    running,
    without_address,
)
from ctclip_bench.load.statistics import Spent, difference
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_bench.results.files import without_name
from ctclip_bench.results.result import Result, Row
from ctclip_client import Volume
from ctclip_client.contract import PATHOLOGIES
from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_client.system.progress import Stages
from ctclip_server.embedded.server import EmbeddedTriton
from ctclip_server.self_check import check_embedded

LONGEST_ON_CPU_S = 300.0
WHOLE_PATH = (PATHOLOGIES.name, *(step.model.name for step in PATHOLOGIES.steps))
"""Models that count a scan."""
_COUNTING_S = 3.0


@dataclass(frozen=True)
class Session:
    """One server that is ready, and the release that it is to have.

    config: the name of its configs. folder: temporary, gone at the end. notes: of its self-check.
    """

    server: Server
    inputs: ParityInputs
    config: str
    described: Mapping[str, Any]
    folder: Path
    stages: Stages
    notes: tuple[str, ...] = ()

    @property
    def fresh(self) -> bool:
        """Whether it was started for this, and has answered nothing yet but its self-check."""
        return self.server.process_id is not None

    @property
    def on_gpu(self) -> bool:
        """Whether a model of the server computes on a GPU."""
        models = self.described["models"].values()
        return any("KIND_GPU" in group for model in models for group in model["instances"])

    @property
    def repeat(self) -> Repeat:
        """How far a later answer may be from the judged one."""
        return repeat_of(self.inputs)

    def questions(self, volumes: Sequence[Volume]) -> tuple[Question, ...]:
        """Volumes, put where the process that asks can read them."""
        return tuple(
            Question.keep(volume, self.folder / f"question-{number}.npy")
            for number, volume in enumerate(volumes)
        )

    def check_release(self, found: str) -> None:
        """Raises: InvalidInput where the server's answer was of another release."""
        check_release(found, self.inputs, self.server.url)

    def judge(self, volumes: Sequence[Volume], answers: Sequence[bytes]) -> Judged:
        """See `judged.judge_answers`."""
        return judge_answers(self.inputs, volumes, answers, self.folder, self.stages)

    def memory(self) -> dict[str, int]:
        """Bytes of "server", its processes together, and of "gpu"; as far as they can be read."""
        found = {}
        if self.server.process_id is not None:
            found["server"] = sum(process_memory(self.server.process_id).values())
        if self.server.on_this_machine and self.on_gpu and (used := gpu_memory()) is not None:
            found["gpu"] = used
        return found

    def statistics(self) -> dict[str, Spent]:
        """Triton's own, by model; empty where it does not tell."""
        try:
            with Raw(self.server) as raw:
                return raw.statistics()
        except CTClipError:  # restricted, for instance; latencies are still to be had
            return {}

    def spent_since(
        self, before: Mapping[str, Spent], models: Sequence[str], requests: int
    ) -> dict[str, Spent]:
        """What Triton has done since a reading, once it has counted so many requests of each of
        these models: it does that a little after it has answered. Empty where it does not tell."""
        end_s = time.monotonic() + _COUNTING_S
        while before:
            spent = difference(self.statistics(), before)
            counted = (name in spent and spent[name].requests >= requests for name in models)
            if all(counted) or time.monotonic() > end_s:
                return spent
        return {}

    def said(self, error: CTClipError) -> str:
        """An error in one line that names no machine."""
        return f"{type(error).__name__}: {without_address(error.cause, self.server.url)}"

    def result(
        self,
        kind: str,
        judged: Judged,
        rows: Sequence[Row],
        plan: Mapping[str, Any],
        volumes: Sequence[Volume],
        *,
        passed: bool = True,
        notes: Sequence[str] = (),
    ) -> Result:
        """passed: of what was measured; the verdict is added here. volumes: of which only shapes
        are kept."""
        release = self.inputs.release
        subject = {
            "release": release.name,
            "config": self.config,
            "precision": release.precision,
            "geometry": release.content["geometry"],
            "random_weights": release.checkpoint.random_weights,
            "provenance": without_name(release.content),
            "server": self.described,
            "scans": [
                {"shape_zxy": list(v.voxels.shape), "spacing_mm": list(v.spacing_mm)}
                for v in volumes
            ],
        }
        return Result(
            kind=kind,
            passed=judged.passed and passed,
            subject=subject,
            plan={"device": "cuda" if self.on_gpu else "cpu", **plan},
            rows=tuple(rows),
            verdicts=(judged.parity,),
            notes=(*self.notes, *notes),
        )


def read_scans(inputs: ParityInputs, stages: Stages) -> list[Volume]:
    """The volumes of inputs.scans. Raises: Unreadable, InvalidInput."""
    volumes = []
    with stages.stage("Scans: read", len(inputs.scans)) as advance:
        for scan in inputs.scans:
            volumes.append(scan.volume())
            advance(1)
    return volumes


@contextmanager
def session(
    inputs: ParityInputs,
    stages: Stages,
    *,
    config_name: str | None,
    timeout_s: float,
    limit_s: float = 0.0,
) -> Iterator[Session]:
    """The server of inputs.connection, or the embedded one, started as `ctclip serve` starts it: it
    is ready when its self-check has passed. At the end it is stopped, and the folder removed.

    config_name: what a server of inputs.connection is said to run with.
    Raises: CTClipError; InvalidInput also for a limit that is too long for a CPU.
    """
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ctclip-bench-", ignore_cleanup_errors=True)
            )
        )
        notes: tuple[str, ...] = ()
        if inputs.connection is not None:
            server = running(inputs.connection)
        else:
            _check_limit(limit_s)
            config_name = inputs.config_name
            with stages.stage("Triton: start, and its self-check"):
                triton = stack.enter_context(
                    EmbeddedTriton(inputs.repository, config_name=config_name)
                )
                said = check_embedded(triton, timeout_s)
                notes = tuple(line for line in said if line.startswith("WARNING"))
            server = Server(triton.grpc_url, timeout_s, process_id=triton.process_id)
        described = describe_server(server, inputs.repository, config_name)
        found = Session(server, inputs, config_name or "default", described, folder, stages, notes)
        if not found.on_gpu:
            _check_limit(limit_s)
        yield found


def _check_limit(limit_s: float) -> None:
    if limit_s > LONGEST_ON_CPU_S:
        raise InvalidInput(
            f"--limit-s: got {limit_s:g}, expected at most {LONGEST_ON_CPU_S:g} on a CPU.",
            "Five minutes for each part say enough of a CPU.",
        )
