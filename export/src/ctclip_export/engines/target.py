"""The two libraries an engine can be built with. Their Python APIs are the same but for the name.

TensorRT needs the GPU that will serve, and its plans are what Triton's `tensorrt` backend loads.
TensorRT for RTX compiles without a GPU, for workstations and for the checks of this project; its
engines run in its own runtime only.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ctclip_client.errors import CTClipError, InvalidInput


class EngineError(CTClipError):
    """An engine cannot be built, or is not the one that belongs here. Exit code 1."""


@dataclass(frozen=True)
class Target:
    """modules, package: names of the library, the first that is there, and where it comes from.

    plan: file name of its engines. in_repository: Triton loads them. builds_on_gpu: only for the
    GPU of the machine that builds.
    """

    name: str
    modules: tuple[str, ...]
    package: str
    plan: str
    in_repository: bool
    builds_on_gpu: bool


TENSORRT = Target(
    # Without its own library (where the system has one) the package has the second name.
    "tensorrt", ("tensorrt", "tensorrt_bindings"), "tensorrt", "model.plan", True, True,
)  # fmt: skip
RTX = Target(
    # The name differs, so that nobody takes it for something that Triton can load.
    "tensorrt-rtx", ("tensorrt_rtx",), "tensorrt-rtx-cu12", "model.rtx", False, False,
)  # fmt: skip
TARGETS = {target.name: target for target in (TENSORRT, RTX)}


def load_library(target: Target) -> Any:
    """The library's module.

    Raises: InvalidInput with the line that installs it.
    """
    present = [name for name in target.modules if find_spec(name) is not None]
    try:
        return importlib.import_module((present or target.modules)[0])
    except (ImportError, OSError) as error:  # OSError: a shared library that the loader misses
        remedy = f"Install it: pip install {target.package}"
        if target is TENSORRT:
            remedy += (
                " (the version of the serving image's TensorRT: a plan runs on no other), or build "
                "where it is installed."
            )
        raise InvalidInput(f"--target {target.name}: {error}.", remedy) from error


def check_capability(target: Target, library: Any, compute_capability: str) -> None:
    """Whether the library can compile for an architecture such as "8.0".

    Raises: InvalidInput naming those that it knows.
    """
    if target.builds_on_gpu:
        return
    known = {
        f"{name[2:-1]}.{name[-1]}": name
        for name in dir(library.ComputeCapability)
        if name.startswith("SM")
    }
    if compute_capability not in known:
        raise InvalidInput(
            f"--compute-capability: {target.name} cannot build for {compute_capability!r}.",
            f"It knows {', '.join(sorted(known, key=float))}.",
        )
