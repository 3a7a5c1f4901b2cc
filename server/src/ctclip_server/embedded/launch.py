"""What a start of Triton lays out on the disk and calls: the plan that the keeper carries out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctclip_server.embedded.installation import (
    BACKENDS,
    Installation,
    environment_files,
    has_own_environment,
)

DRAIN_S = 10
"""Seconds that requests in flight get when the server is stopped."""
STUB_SHARED_MEMORY_BYTES = 1 << 20
"""First size of a Python stub's shared memory; Triton grows it to what its tensors need."""


def launch_plan(
    installation: Installation, identity: str, repository: Path, arguments: Sequence[str]
) -> dict[str, Any]:
    """The plan, see `ctclip_server.embedded.keeper`: links, copies, files, command, environment.

    Args:
        installation: where Triton and this Python lie.
        identity: part of every name that this server uses on the machine.
        repository: the model repository.
        arguments: of `tritonserver`, besides those that every start has.
    """
    root = f"<{identity}>"  # stands for the folder that the keeper will make
    links = {
        # The stub is started through a shell without quotes: the repository's own path may hold
        # spaces, this one cannot.
        "repository": str(repository.resolve()),
        f"lib/{installation.libpython.name}": str(installation.libpython),
        "backends/python/triton_python_backend_stub": str(installation.stub),
        "backends/python/triton_python_backend_utils.py": str(
            installation.python_backend / "triton_python_backend_utils.py"
        ),
    }
    for model in sorted(BACKENDS.glob("*/model.py")):
        links[f"backends/{model.parent.name}/model.py"] = str(model)
    search = str(installation.interpreter.parent)
    files: dict[str, str] = {}
    if has_own_environment(installation):
        links["bin/python3"] = str(installation.interpreter)
        files = environment_files(installation)
        search = f"{root}/bin"
    # Behind them the caller's own: there the driver's may be, and nowhere else.
    callers = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    libraries = [str(installation.libraries), f"{root}/lib", *filter(None, callers)]
    library = "libtriton_python.so"
    return {
        "prefix": f"{identity}-",
        "root": root,
        "directory": _runtime_directory(),
        "links": links,
        "files": files,
        # A link would be refused: Triton does not follow one out of a backend's folder.
        "copies": {f"backends/python/{library}": str(installation.python_backend / library)},
        "environment": {
            "PATH": f"{search}:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": ":".join(libraries),
        },
        "arguments": [
            str(installation.binary),
            f"--id={identity}",
            f"--model-repository={root}/repository",
            f"--backend-directory={root}/backends",
            f"--cache-directory={installation.caches}",
            # The configs are complete; completing them would start every Python model twice.
            "--disable-auto-complete-config",
            "--exit-on-error=true",
            "--strict-readiness=true",
            f"--exit-timeout-secs={DRAIN_S}",
            f"--backend-config=python,shm-region-prefix-name={identity}-",
            f"--backend-config=python,shm-default-byte-size={STUB_SHARED_MEMORY_BYTES}",
            *arguments,
        ],
        "log": f"{root}/triton.log",
        "append": False,
    }


def _runtime_directory() -> str:
    """The folder for temporary files; Triton's way of starting stubs allows no blank in it."""
    folder = tempfile.gettempdir()
    safe = folder.isascii() and not set(folder) & set(" \t'\"\\$`&;|<>()*?[]#~")
    return folder if safe else "/tmp"  # noqa: S108
