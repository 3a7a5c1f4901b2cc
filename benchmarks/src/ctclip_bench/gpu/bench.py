"""Serve the plans by the official container, or find them served, and measure."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctclip_bench.gpu.steps import CONFIG_NAME, Inputs, ctclip, require_docker, require_gpu, run
from ctclip_client.contract import TEXT_ENCODER, VISION
from ctclip_client.errors import InvalidInput, Unavailable

SERVICE = "triton-gpu"
_REMEDY = "Or start Triton with the plans yourself, and name it: make gpu-bench URL=HOST:8001"


def bench(inputs: Inputs) -> int:
    """`ctclip bench` on TensorRT plans; its exit code.

    That the server really runs plans is checked by `ctclip bench`, which asks it for its configs.
    Raises: CTClipError if the machine lacks something.
    """
    if inputs.url is not None:
        inputs.check()
        return _measure(inputs, inputs.url)
    require_gpu("Run make gpu-bench on the machine with the GPU. " + _REMEDY)
    docker = require_docker("Install Docker Engine with Compose. " + _REMEDY)
    inputs.check()
    _require_plans(inputs.repository)
    with _container(docker, inputs.repository) as url:
        return _measure(inputs, url)


def _measure(inputs: Inputs, url: str) -> int:
    return run(
        ctclip(
            "bench", "--repository", str(inputs.repository), "--config-name", CONFIG_NAME,
            "--url", url, "--out", str(inputs.out), *inputs.reference(), *inputs.more,
        )
    )  # fmt: skip


def _require_plans(repository: Path) -> None:
    for model in (VISION, TEXT_ENCODER):
        if not list((repository / model.name).glob("*/model.plan")):
            raise InvalidInput(
                f"REPOSITORY: {repository / model.name} has no model.plan.",
                "Build and check the engines first: make gpu-check",
            )


@contextmanager
def _container(docker: str, repository: Path) -> Iterator[str]:
    """The official Triton over the repository, with its plans; taken down at the end."""
    compose = [docker, "compose", "--profile", "gpu"]
    environment = {
        "CTCLIP_REPOSITORY": str(repository.absolute()),
        "CTCLIP_CONFIG_NAME": CONFIG_NAME,
    }
    running = subprocess.run(
        [*compose, "ps", "--quiet", SERVICE], capture_output=True, text=True, check=False
    )
    if running.stdout.strip():
        # `up` would start it anew with another repository, under whoever uses it.
        raise InvalidInput(
            f"docker: {SERVICE} runs already.",
            "Measure that one: make gpu-bench URL=localhost:8001. Or stop it first: docker compose "
            "--profile gpu down",
        )
    try:
        if code := run([*compose, "up", "--build", "--wait", SERVICE], environment):
            raise Unavailable(
                f"docker compose up {SERVICE} ended with exit code {code}.",
                "See what it said above; docker compose --profile gpu logs says more.",
            )
        yield f"127.0.0.1:{os.environ.get('CTCLIP_GRPC_PORT') or 8001}"
    finally:
        run([*compose, "down"], environment)
