"""What both need: their inputs, what the machine must have, and `ctclip` as a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctclip_bench.gpu.variables import GPU, compose_variables
from ctclip_client.contract import VISION
from ctclip_client.errors import InvalidInput
from ctclip_client.system.child import child
from ctclip_export.engines.gpu import DRIVERS_ORDER, Gpu, NoGpu, read_gpu

CONFIG_NAME = "tensorrt"
PUTS_AWAY_S = 60.0
"""Seconds that an interrupted step gets."""


@dataclass(frozen=True)
class Inputs:
    """The Makefile's variables. more: further flags, handed on."""

    repository: Path
    checkpoint: Path | None
    text_model: Path | None
    url: str | None
    out: Path
    more: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises: InvalidInput naming the variable."""
        if not (self.repository / VISION.name).is_dir():
            raise InvalidInput(
                f"REPOSITORY: {self.repository} is no exported repository.",
                "Make one: make demo, or ctclip export; then REPOSITORY=DIR CHECKPOINT=FILE "
                "TEXT_MODEL=DIR.",
            )
        if (self.checkpoint is None) != (self.text_model is None):
            raise InvalidInput("CHECKPOINT and TEXT_MODEL go together.", "Give both, or neither.")
        for name, path in (("CHECKPOINT", self.checkpoint), ("TEXT_MODEL", self.text_model)):
            if path is not None and not path.exists():
                raise InvalidInput(f"{name}: there is no {path}.", "Name that of the export.")

    def reference(self) -> list[str]:
        """Flags of the reference, for `ctclip parity` and `ctclip bench`."""
        if self.checkpoint is None:
            return []
        return ["--against", str(self.checkpoint), "--text-model", str(self.text_model)]


def chosen_gpu() -> str:
    """CTCLIP_GPU as Compose reads it; "" if it is not set."""
    return compose_variables(Path.cwd(), os.environ, (GPU,)).get(GPU, "")


def gpu_environment(gpu: str) -> dict[str, str]:
    """What a process needs to use that GPU (number or UUID; "": the first visible) and no other.

    docker and nvidia-smi number GPUs alike; with this, CUDA does, too.
    """
    return {**DRIVERS_ORDER, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}


def require_gpu(remedy: str, environment: Mapping[str, str]) -> Gpu:
    """The GPU that a process with this in its environment uses. Raises: NoGpu with that remedy."""
    try:
        return read_gpu({**os.environ, **environment})
    except NoGpu as error:
        raise NoGpu(error.cause, remedy) from error


def ctclip(*arguments: str) -> list[str]:
    """The command line of a `ctclip` of this environment."""
    return [sys.executable, "-m", "ctclip_client", *arguments]


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a step before everyone's eyes; a killed one is an error and no exit code.

    Raises: InvalidInput.
    """
    # Killed at once, it would leave half-built engines in the repository.
    with child(command, environment, grace_s=PUTS_AWAY_S) as process:
        pass
    if process.returncode < 0:
        name = " ".join(command[2:5] if command[0] == sys.executable else command[:3])
        raise InvalidInput(
            f"{name} was killed by signal {-process.returncode}.",
            "Nothing can be said of what it had not finished: run it again.",
        )
    return process.returncode
