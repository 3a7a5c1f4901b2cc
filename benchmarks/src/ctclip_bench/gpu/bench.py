"""Build and serve the plans in the official container, or find them served, and measure."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctclip_bench.gpu.steps import CONFIG_NAME, Inputs, ctclip, require_docker, require_gpu, run
from ctclip_client.errors import InvalidInput, Unavailable

PROFILE = "tensorrt"
BUILDER, SERVICE = "build-engines", "triton-tensorrt"
"""Of docker-compose.yml."""
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
    with _container(docker, inputs.repository) as url:
        return _measure(inputs, url)


def _measure(inputs: Inputs, url: str) -> int:
    return run(
        ctclip(
            "bench", "--repository", str(inputs.repository), "--config-name", CONFIG_NAME,
            "--url", url, "--out", str(inputs.out), *inputs.reference(), *inputs.more,
        )
    )  # fmt: skip


@contextmanager
def _container(docker: str, repository: Path) -> Iterator[str]:
    """The official Triton over the repository, with its plans; taken down at the end.

    Plans are built in the image that serves, those that match are kept: a plan runs on no other
    TensorRT than the one that built it.
    """
    every = [flag for profile in ("cpu", "gpu", PROFILE) for flag in ("--profile", profile)]
    running = subprocess.run(
        [docker, "compose", *every, "ps", "--quiet"], capture_output=True, text=True, check=False
    )
    if running.returncode:
        raise Unavailable(f"docker compose ps: {running.stderr.strip()}", _REMEDY)
    if running.stdout.strip():
        # `up` would start it anew with another repository, under whoever uses it.
        raise InvalidInput(
            "docker compose: a server of this project runs already.",
            "Measure that one: make gpu-bench URL=localhost:8001. Or stop it first: docker compose "
            "--profile NAME down",
        )
    compose = [docker, "compose", "--profile", PROFILE]
    environment = {"CTCLIP_REPOSITORY": str(repository.absolute())}
    if "CTCLIP_USER" not in os.environ:  # whoever runs this may write plans into the repository
        environment["CTCLIP_USER"] = f"{os.getuid()}:{os.getgid()}"
    steps = (
        ["build", BUILDER, SERVICE],
        ["run", "--rm", BUILDER],
        ["up", "--wait", "--no-deps", SERVICE],
    )
    try:
        for step in steps:
            if code := run([*compose, *step], environment):
                raise Unavailable(
                    f"docker compose {' '.join(step)} ended with exit code {code}.",
                    "See what it said above. " + _REMEDY,
                )
        yield f"127.0.0.1:{os.environ.get('CTCLIP_GRPC_PORT') or 8001}"
    finally:
        run([*compose, "down"], environment)
