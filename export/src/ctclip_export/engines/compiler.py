"""Compile one graph; runs as a program of its own, since the library may take its process down.

It reads one line of JSON, a `Job`, from standard input. It writes its progress in percent, a line
each, to standard output, and leaves the plan where the job says, with an `Outcome` beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctclip_client.errors import CTClipError
from ctclip_client.release.engines import Shapes
from ctclip_client.system.files import placed
from ctclip_export.engines.target import TARGETS, load_library

WORKSPACE_BYTES = 4 * 2**30
"""Most that one engine may ask for beside its weights. The published model in float32 takes 3.2 GB
for four volumes and 2.1 GB for 64 texts of 512 tokens."""
_MEMORY_LINES = ("Total Activation Memory", "Total Weights Memory")


@dataclass(frozen=True)
class Job:
    """target, model: their names. plan: the file to write. timing_cache: a file, or "" for none.

    compute_capability: such as "8.0"; of the GPU to compile for, where the library can choose.
    """

    target: str
    model: str
    onnx: str
    plan: str
    compute_capability: str
    profile: Shapes
    timing_cache: str = ""

    @property
    def outcome(self) -> Path:
        """Where the `Outcome` goes."""
        return Path(self.plan).with_name("outcome.json")


@dataclass(frozen=True)
class Outcome:
    """failure: why there is no plan, in one line. log: what the layer report is read from."""

    failure: str
    warnings: list[str]
    log: list[str]


def compile_plan(job: Job, progress: Callable[[int], None]) -> Outcome:
    """Parse, compile, write the plan. Raises: CTClipError if the target cannot be used."""
    target = TARGETS[job.target]
    library = load_library(target)
    logger = logger_of(library)
    builder = library.Builder(logger)
    flags = library.NetworkDefinitionCreationFlag
    typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(typed)
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(job.onnx):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(
            f"node '{error.node_name()}' ({error.node_operator()}): {error.desc()}"
            for error in found
        )
        return _outcome(logger, f"its parser refuses the graph: {said or 'no reason given'}")
    config = builder.create_builder_config()
    # Everywhere: what is float32 in the graph is so because it must be exact.
    config.clear_flag(library.BuilderFlag.TF32)
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.progress_monitor = monitor = _monitor(library, progress)
    if not target.builds_on_gpu:
        name = f"SM{job.compute_capability.replace('.', '')}"
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(library.ComputeCapability, name), 0)
    profile = builder.create_optimization_profile()
    for name, shapes in job.profile.items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    cache = Path(job.timing_cache) if job.timing_cache else None
    if cache is not None:
        _start_timing_cache(config, _kept(cache))
    plan = builder.build_serialized_network(network, config)
    del monitor
    if plan is None:
        return _outcome(
            logger, f"it built nothing: {logger.errors[-1] if logger.errors else 'no reason given'}"
        )
    with Path(job.plan).open("wb") as file:
        file.write(plan)
        file.flush()
        os.fsync(file.fileno())
    if cache is not None:
        _keep(cache, _measured_timings(config))
    return _outcome(logger, "")


def _start_timing_cache(config: Any, kept: bytes) -> None:
    """Start from timings that were kept, or from none where the library refuses those.

    It does for another GPU or version, of which a file may be left: the build then measures anew.
    """
    for content in (kept, b""):
        cache = config.create_timing_cache(content)
        # ignore_mismatch=False: timings of another GPU would choose the wrong kernels.
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _measured_timings(config: Any) -> bytes:
    """What the build has measured; nothing where the library took no cache."""
    cache = config.get_timing_cache()
    content = None if cache is None else cache.serialize()
    return b"" if content is None else bytes(content)


def _kept(cache: Path) -> bytes:
    try:
        return cache.read_bytes()
    except OSError:
        return b""


def _keep(cache: Path, content: bytes) -> None:
    """The cache spares minutes next time; an engine must not be lost for want of a place for it."""
    if not content:
        return
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with placed(cache) as file:
            file.write(content)


def logger_of(library: Any) -> Any:
    """A logger of the library that keeps what matters of millions of lines."""
    severity = library.ILogger.Severity

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.kept: list[str] = []

        def log(self, level: Any, text: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                self.errors.append(text)
            elif level == severity.WARNING:
                self.warnings.append(text)
            elif "LayerType:" in text or text.startswith(_MEMORY_LINES):
                self.kept.append(text)

    return Logger()


def _outcome(logger: Any, failure: str) -> Outcome:
    return Outcome(" ".join(failure.split()), list(logger.warnings), list(logger.kept))


def _monitor(library: Any, progress: Callable[[int], None]) -> Any:
    """Phases within steps of phases, made into one number that only grows."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.open: dict[str, tuple[int, int, str | None]] = {}  # steps done, steps, parent
            self.shown = 0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.open[name] = (0, max(steps, 1), parent)

        def phase_finish(self, name: str) -> None:
            self.open.pop(name, None)

        def step_complete(self, name: str, step: int) -> bool:
            _, steps, parent = self.open.get(name, (0, 1, None))
            self.open[name] = (min(step + 1, steps), steps, parent)
            percent = int(100 * self.fraction())
            if percent > self.shown:
                self.shown = percent
                progress(percent)
            return True

        def fraction(self, parent: str | None = None) -> float:
            shares = (
                min((done + self.fraction(name) * (done < steps)) / steps, 1.0)
                for name, (done, steps, above) in self.open.items()
                if above == parent
            )
            return max(shares, default=0.0)

    return Monitor()


def main() -> int:
    """Run the job of standard input."""
    job = Job(**json.loads(sys.stdin.readline()))
    # The library prints for itself: progress gets a channel of its own.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")

    def progress(percent: int) -> None:
        print(percent, file=channel, flush=True)

    try:
        outcome = compile_plan(job, progress)
    except CTClipError as error:
        outcome = Outcome(f"{error.cause} {error.remedy}".strip(), [], [])
    job.outcome.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
