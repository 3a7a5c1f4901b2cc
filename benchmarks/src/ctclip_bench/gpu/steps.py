"""What check and serve need: inputs, Compose's variables, the GPU, and steps as processes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctclip_client.contract import VISION
from ctclip_client.errors import InvalidInput
from ctclip_client.system.child import child
from ctclip_export.engines.gpu import DRIVERS_ORDER, Gpu, NoGpu, read_gpu

CTCLIP = (sys.executable, "-m", "ctclip_client")
"""A `ctclip` of this environment."""
PUTS_AWAY_S = 60.0
"""Seconds that an interrupted step gets."""
GPU, GRPC_PORT, USER, ADMIN_HEADER = NAMES = (
    "CTCLIP_GPU", "CTCLIP_GRPC_PORT", "CTCLIP_USER", "CTCLIP_ADMIN_HEADER",
)  # fmt: skip
"""Variables of docker-compose.yml that matter on this side. .env.example explains them."""
_LINE = re.compile(r"\s*(?:export\s+)?(\w+)\s*=\s*(.*)")
_VALUE = re.compile(
    r"""'(?P<literal>[^']*)'\s*(\#.*)? | "(?P<quoted>[^"$\\]*)"\s*(\#.*)?
    | (?P<plain>(?!['"])[^$]*?)(\s+\#.*)?\s*""",
    re.VERBOSE,
)


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

    def ctclip(self, *command: str) -> list[str]:
        """A command line on this repository and its reference."""
        against = ["--against", str(self.checkpoint), "--text-model", str(self.text_model)]
        return [
            *CTCLIP, *command, "--repository", str(self.repository),
            *(against if self.checkpoint else []), *self.more,
        ]  # fmt: skip


def compose_variables(
    folder: Path, environment: Mapping[str, str], names: Sequence[str] = NAMES
) -> dict[str, str]:
    """Those of `names` that are set: in `.env`, or in the environment, which wins.

    folder: where docker compose is called; `.env` lies beside docker-compose.yml, there or above.
    Raises: InvalidInput, without the value, for a line that only Compose understands.
    """
    found = {name: environment[name] for name in names if name in environment}
    wanted = set(names) - set(found)
    above = (each for each in (folder, *folder.parents) if (each / "docker-compose.yml").is_file())
    path = next(above, folder) / ".env"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return found
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: {error}.", "Fix it, or move it away.") from error
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match[1] not in wanted:
            continue
        value = _VALUE.fullmatch(match[2])
        if value is None:
            raise InvalidInput(
                f"{path.name}, line {number}: {match[1]} has a quote, a $ or a \\ whose meaning "
                "only Compose knows.",
                "Write the value out, in single quotes, or set the variable in the environment.",
            )
        parts = value.group("literal", "quoted", "plain")
        found[match[1]] = next(part for part in parts if part is not None)
    return found


def chosen_gpu() -> dict[str, str]:
    """`gpu_environment` of CTCLIP_GPU, as Compose reads it. Raises: InvalidInput."""
    return gpu_environment(compose_variables(Path.cwd(), os.environ, (GPU,)).get(GPU, ""))


def gpu_environment(gpu: str) -> dict[str, str]:
    """What a process needs to use that GPU (number or UUID; "": the first visible) and no other.

    docker and nvidia-smi number GPUs alike; with this, CUDA does, too.
    """
    return {**DRIVERS_ORDER, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}


def require_gpu(remedy: str, environment: Mapping[str, str] | None = None) -> Gpu:
    """The GPU that a process with this in its environment uses. Raises: NoGpu with that remedy."""
    try:
        return read_gpu({**os.environ, **(environment or {})})
    except NoGpu as error:
        raise NoGpu(error.cause, remedy) from error


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
