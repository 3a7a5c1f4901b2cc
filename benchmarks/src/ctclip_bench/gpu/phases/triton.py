"""One scan, end to end, through the embedded Triton with its models on the device."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from ctclip_bench.gpu.rows import Missing, Rows
from ctclip_bench.gpu.settings import graph_of_release
from ctclip_bench.gpu.subject import ON_CPU, Subject
from ctclip_bench.results.result import Parity
from ctclip_client.contract import PREPROCESS, TEXT_ENCODER, VISION
from ctclip_client.errors import Unavailable
from ctclip_export.engines.gpu import NoGpu, read_gpu
from ctclip_export.parity.judge import StepAnswer, bounds_for, judge
from ctclip_export.parity.reference import reference_answer

_CONFIG, _CONFIG_FILES = "gpu", "*/configs/gpu.pbtxt"
"""Taken on a GPU where the repository has it; the default leaves the choice to Triton."""
_RUNS = 5
_LEAST_GROWTH = 0.9
"""Of the encoders' weights, in memory on the GPU: their files hold little else."""


def measure(subject: Subject, rows: Rows) -> None:
    """Needs what `ctclip serve` needs. Raises: ModuleNotFoundError, Missing with what is not here;
    RuntimeError where the models are not on the GPU.
    """
    from ctclip_bench.gpu.sessions import require_provider
    from ctclip_bench.load import statistics
    from ctclip_client import Client
    from ctclip_client.transport.connection import Connection
    from ctclip_server.embedded.installation import find_installation
    from ctclip_server.embedded.server import EmbeddedTriton

    require_provider(subject.device)
    try:
        find_installation()
    except Unavailable as error:
        raise Missing(error.cause) from error
    settings, scan = subject.settings, subject.scan
    repository = settings.repository or _export(subject, rows)
    config = _CONFIG if subject.cuda and any(repository.glob(_CONFIG_FILES)) else None
    before = _gpu_gib(subject)
    start = time.perf_counter()
    with EmbeddedTriton(repository, config_name=config, startup_timeout_s=180) as server:
        ready_s = time.perf_counter() - start
        times: list[float] = []
        with Client(server.grpc_url, timeout_s=120) as client:
            for _ in range(1 + min(settings.runs, _RUNS)):
                begun = time.perf_counter()
                scores = client.pathologies(scan)
                times.append((time.perf_counter() - begun) * 1000)
        spent = statistics.read(Connection(server.grpc_url))
        after = _gpu_gib(subject)
    if before is not None and after is not None:
        graphs = (graph_of_release(repository, model.name) for model in (VISION, TEXT_ENCODER))
        check_growth(after - before, sum(path.stat().st_size for path in graphs) / 2**30)
    precision = settings.release.precision if settings.release else "fp32"
    bounds = bounds_for(precision, math.prod(subject.reference.config.vision.token_shape))
    expected = reference_answer(
        subject.checkpoint, subject.text_model, subject.geometry, scan, settings.findings
    )
    verdict = judge("served", [StepAnswer.of_scores(scores)], [expected], bounds)
    rows.add(
        "one scan, client to findings", times[1:], parity=Parity.of(verdict, ON_CPU),
        settings={"slices": scan.voxels.shape[0], "config": config or "default"},
        first_ms=times[0], ready_s=ready_s, gpu_gib_before=before, gpu_gib_after=after,
    )  # fmt: skip
    for model in (PREPROCESS, VISION):
        name = model.name.removeprefix("ctclip_")
        figures: dict[str, Any] = {**statistics.figures(spent[model.name])}
        rows.add(f"inside Triton: {name}", **figures)


def _export(subject: Subject, rows: Rows) -> Path:
    """An export of the made checkpoint, if it is not there already."""
    repository = subject.folder / "model_repository"
    if not repository.exists():
        from ctclip_export.repository.build import export_repository

        start = time.perf_counter()
        export_repository(
            subject.checkpoint, subject.text_model, subject.geometry, subject.settings.findings,
            repository,
        )  # fmt: skip
        rows.add("export of the made checkpoint", seconds=time.perf_counter() - start)
    return repository


def _gpu_gib(subject: Subject) -> float | None:
    """Memory in use on the whole GPU: it tells whether Triton's models went there."""
    try:
        return read_gpu().memory_used_bytes / 2**30 if subject.cuda else None
    except NoGpu:
        return None


def check_growth(grown_gib: float, weights_gib: float) -> None:
    """Raises: RuntimeError where models that a server loaded cannot be on the GPU."""
    if grown_gib < _LEAST_GROWTH * weights_gib:
        raise RuntimeError(
            f"memory in use on the GPU grew by {grown_gib:.2f} GiB, and the encoders' weights are "
            f"{weights_gib:.2f}: they run on the CPU"
        )
