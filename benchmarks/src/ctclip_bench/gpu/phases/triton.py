"""One scan, end to end, through the embedded Triton with its models on the device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ctclip_bench.gpu.phases.onnx_rows import scan_of
from ctclip_bench.gpu.rows import Missing, Rows
from ctclip_bench.gpu.sessions import load_onnxruntime
from ctclip_bench.gpu.settings import graph_of_release
from ctclip_bench.gpu.subject import Subject
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
    """Needs what `ctclip serve` needs. Raises: Missing with what is not here; RuntimeError where
    the models are not on the GPU.
    """
    load_onnxruntime(subject.device)
    try:
        from ctclip_client import Client
        from ctclip_server.embedded.installation import find_installation
        from ctclip_server.embedded.server import EmbeddedTriton
    except ImportError as error:
        raise Missing(f"the embedded Triton needs ctclip-server: {error}") from error
    try:
        find_installation()
    except Unavailable as error:
        raise Missing(error.cause) from error
    repository = _repository(subject, rows)
    config = _CONFIG if subject.cuda and any(repository.glob(_CONFIG_FILES)) else None
    scan = scan_of(subject)
    before = _gpu_gib(subject)
    start = time.perf_counter()
    with EmbeddedTriton(repository, config_name=config, startup_timeout_s=180) as server:
        ready_s = time.perf_counter() - start
        with Client(server.grpc_url, timeout_s=120) as client:
            times: list[float] = []
            for _ in range(1 + min(subject.settings.runs, _RUNS)):
                begun = time.perf_counter()
                scores = client.pathologies(scan)
                times.append((time.perf_counter() - begun) * 1000)
        spent = _inside(server.grpc_url)
        after = _gpu_gib(subject)
    if before is not None and after is not None:
        names = (VISION.name, TEXT_ENCODER.name)
        graphs = (graph_of_release(repository, name, "model.onnx") for name in names)
        check_growth(after - before, sum(path.stat().st_size for path in graphs) / 2**30)
    precision = subject.settings.release.precision if subject.settings.release else "fp32"
    model = subject.reference
    tokens = model.config.vision.token_shape
    expected = reference_answer(
        subject.checkpoint, subject.text_model, subject.geometry, scan, subject.settings.findings
    )
    verdict = judge(
        "served",
        [StepAnswer.of_scores(scores)],
        [expected],
        bounds_for(precision, tokens[0] * tokens[1] * tokens[2]),
    )
    parity = Parity.of(verdict, "PyTorch float32 on the CPU")
    rows.add(
        "one scan, client to findings", times[1:], parity=parity,
        settings={"slices": scan.voxels.shape[0], "config": config or "default"},
        first_ms=times[0], ready_s=ready_s, gpu_gib_before=before, gpu_gib_after=after,
    )  # fmt: skip
    for name, figures in spent.items():
        rows.add(f"inside Triton: {name}", **figures)


def _repository(subject: Subject, rows: Rows) -> Path:
    """The one that was named, or an export of the made checkpoint."""
    if subject.settings.repository is not None:
        return subject.settings.repository
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
    if not subject.cuda:
        return None
    try:
        return read_gpu().memory_used_bytes / 2**30
    except NoGpu:
        return None


def check_growth(grown_gib: float, weights_gib: float) -> None:
    """Raises: RuntimeError where models that a server loaded cannot be on the GPU."""
    if grown_gib < _LEAST_GROWTH * weights_gib:
        raise RuntimeError(
            f"memory in use on the GPU grew by {grown_gib:.2f} GiB, and the encoders' weights are "
            f"{weights_gib:.2f}: they run on the CPU"
        )


def _inside(url: str) -> dict[str, dict[str, Any]]:
    """Mean milliseconds of a request in the models that compute, by Triton's own statistics."""
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(url) as client:
        told = client.get_inference_statistics(as_json=True)
    found = {}
    for entry in told["model_stats"]:
        name, stats = entry["name"], entry["inference_stats"]
        count = int(stats["success"].get("count", 0))
        if name in (PREPROCESS.name, VISION.name) and count:
            found[name.removeprefix("ctclip_")] = {
                f"{key}_ms": int(stats[key].get("ns", 0)) / count / 1e6
                for key in ("queue", "compute_input", "compute_infer", "compute_output")
            }
    return found
