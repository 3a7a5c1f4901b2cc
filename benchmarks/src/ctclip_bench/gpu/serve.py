"""Build and serve the plans in the official container, or find them served, and measure."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ctclip_bench.gpu.steps import (
    ADMIN_HEADER,
    GPU,
    GRPC_PORT,
    USER,
    Inputs,
    chosen_gpu,
    compose_variables,
    gpu_environment,
    require_gpu,
    run,
)
from ctclip_client.errors import CTClipError, InvalidInput, Unavailable

PROFILE = "tensorrt"
"""Of Compose; configs of the repository have the same name."""
BUILDER, SERVICE = "build-engines", "triton-tensorrt"
"""Of docker-compose.yml."""
_LOOPBACK = "127.0.0.1"
_REMEDY = "Or start Triton with the plans yourself, and name it: make gpu-bench URL=HOST:8001"


def serve(inputs: Inputs) -> int:
    """`ctclip bench serve` on TensorRT plans; its exit code.

    That the server really runs plans is checked there: it is asked for its configs.
    Raises: CTClipError if the machine lacks something.
    """
    if inputs.url is not None:
        inputs.check()
        return _measure(inputs, inputs.url, chosen_gpu())
    variables = compose_variables(Path.cwd(), os.environ)
    # Without the variable it is 0 for Compose, whatever CUDA sees outside of the container.
    gpu = gpu_environment(variables.get(GPU) or "0")
    require_gpu("Run make gpu-bench on the machine with the GPU. " + _REMEDY, gpu)
    docker = shutil.which("docker")
    if docker is None:
        raise Unavailable(
            "docker: it is not on this machine.", f"Install Docker Engine with Compose. {_REMEDY}"
        )
    inputs.check()
    with (
        _container(docker, inputs.repository, variables) as url,
        tempfile.NamedTemporaryFile("w", encoding="utf-8") as headers,
    ):
        key, equals, value = variables.get(ADMIN_HEADER, "").partition("=")
        if not equals:
            return _measure(inputs, url, gpu)
        # Statistics and configs are only had with it. By a file: others see a command's flags.
        headers.write(f"triton-grpc-protocol-{key}: {value}\n")
        headers.flush()
        return _measure(inputs, url, gpu, ["--headers-file", headers.name])


def _measure(
    inputs: Inputs, url: str, environment: Mapping[str, str], flags: Sequence[str] = ()
) -> int:
    more = ("--config-name", PROFILE, "--url", url, "--out", str(inputs.out), *flags)
    return run(inputs.ctclip("bench", "serve", *more), environment)


@contextmanager
def _container(docker: str, repository: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """The official Triton over the repository, with its plans; taken down at the end.

    Plans are built in the image that serves, those that match are kept: a plan runs on no other
    TensorRT than the one that built it. variables: as Compose reads them.
    """
    port = variables.get(GRPC_PORT) or "8001"
    every = [flag for profile in ("cpu", "gpu", PROFILE) for flag in ("--profile", profile)]
    running = subprocess.run(
        [docker, "compose", *every, "ps", "--quiet"], capture_output=True, text=True, check=False
    )
    if running.returncode:
        said = running.stderr.strip().splitlines() or ["no reason given"]
        raise Unavailable(f"docker compose ps: {said[-1]}", _REMEDY)
    if running.stdout.strip():
        # `up` would start it anew with another repository, under whoever uses it.
        raise InvalidInput(
            "docker compose: a server of this project runs already.",
            f"Measure that one: make gpu-bench URL=localhost:{port}. Or stop it first: docker "
            "compose --profile NAME down",
        )
    compose = (docker, "compose", "--profile", PROFILE)
    # Only this machine measures, so only this machine reaches it, whatever is set for serving.
    environment = {"CTCLIP_REPOSITORY": str(repository.absolute()), "CTCLIP_BIND": _LOOPBACK}
    if not variables.get(USER):  # whoever runs this may write plans into the repository
        environment[USER] = f"{os.getuid()}:{os.getgid()}"
    steps = (
        ["build", BUILDER, SERVICE],
        ["run", "--rm", BUILDER],
        ["up", "--wait", "--no-deps", SERVICE],
    )

    def take_down() -> None:
        with suppress(CTClipError):  # the measurement, or what ended it, is what counts
            run([*compose, "down"], environment)

    try:
        for step in steps:
            if code := run([*compose, *step], environment):
                raise Unavailable(
                    f"docker compose {' '.join(step)} ended with exit code {code}.",
                    "See what it said above. " + _REMEDY,
                )
        yield f"{_LOOPBACK}:{port}"
    finally:
        try:
            take_down()
        except KeyboardInterrupt:  # it would keep the GPU
            take_down()
            raise
