"""Where the real Triton of the nvidia-pytriton wheel lies, and whether it can run here.

The wheel is used for its binary only; pytriton's own Python API is never imported.
"""

from __future__ import annotations

import os
import platform
import shutil
import site
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ctclip_client.errors import Unavailable

WHEEL = "nvidia-pytriton"
MINIMUM_GLIBC = (2, 35)
"""The wheel's platform tag is manylinux_2_35."""
BACKENDS = Path(__file__).parents[1] / "backends"
"""Drop-in backends, one folder each, placed beside the wheel's `python` backend."""
STUB_PATH = "CTCLIP_STUB_PATH"
"""Environment variable: folders that Triton's Python stubs alone import from, before all others.

For an older NumPy than the caller needs.
"""


@dataclass(frozen=True)
class Installation:
    """Absolute paths of everything that a start needs."""

    binary: Path
    libraries: Path
    """The wheel's own shared libraries."""
    python_backend: Path
    stub: Path
    """The stub built for the running Python's minor version."""
    caches: Path
    libpython: Path
    interpreter: Path
    """The running Python's executable."""
    in_virtual_environment: bool


def find_installation() -> Installation:
    """Find the wheel and the running interpreter's shared library.

    Raises:
        Unavailable: This machine or environment cannot run it; the remedy says what is missing.
    """
    _check_platform()
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            f"The embedded Triton comes in the wheel {WHEEL}, which is not installed.",
            "In a checkout of this project: pip install ./client ./server",
        )
    _check_numpy()
    package = Path(next(iter(spec.submodule_search_locations))).resolve()
    triton = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        offered = sorted(path.parent.name for path in stub.parent.parent.glob("*/" + stub.name))
        raise Unavailable(
            f"{WHEEL} has no Python stub for Python {version}; it has {', '.join(offered)}.",
            "Use one of those Pythons (ctclip-server is tested with 3.11 and 3.12).",
        )
    for program in ("bash", "sh"):
        if shutil.which(program) is None:
            raise Unavailable(
                f"Triton starts its Python stubs through {program}, which is not on PATH.",
                f"Install it: apt-get install {'bash' if program == 'bash' else 'dash'}",
            )
    return Installation(
        binary=triton / "bin" / "tritonserver",
        libraries=package.parent / "nvidia_pytriton.libs",
        python_backend=triton / "backends" / "python",
        stub=stub,
        caches=triton / "caches",
        libpython=find_libpython(),
        interpreter=Path(sys.executable),
        in_virtual_environment=sys.prefix != sys.base_prefix,
    )


def find_libpython() -> Path:
    """The shared library of the running interpreter.

    A library of another build is not taken, even of the same version: it would meet this
    interpreter's standard library.

    Raises:
        Unavailable: There is none; the remedy names the package or the build option.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    for folder in libpython_folders():
        candidate = Path(folder) / name
        if candidate.is_file():
            return candidate.resolve()
    raise Unavailable(
        f"Triton's Python stub needs {name}, which Python {platform.python_version()} "
        "of this environment lacks.",
        f"Debian's Python: apt-get install {name.partition('.so')[0]}. pyenv's: "
        "PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force "
        f"{platform.python_version()}. Otherwise use a Python built with --enable-shared, as "
        "conda's and uv's are.",
    )


def libpython_folders() -> list[str]:
    """Folders that may hold the running interpreter's shared library, the surest first."""
    folders = [sysconfig.get_config_var("LIBDIR") or "", str(Path(sys.base_prefix) / "lib")]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch and sys.base_prefix == "/usr":
        folders += [f"/usr/lib/{multiarch}", f"/lib/{multiarch}"]
    return [folder for folder in folders if folder]


def environment_files(installation: Installation) -> dict[str, str]:
    """Files (path -> content) of a virtual environment that sees what this process imports from.

    The stub ignores PYTHONPATH, PYTHONHOME and the user's site-packages; it takes its standard
    library and its packages from the first `python3` on PATH. Within a virtual environment that
    is its own, unless PYTHONPATH or STUB_PATH adds to it; elsewhere this one, whose `bin/python3`
    is a link to the running Python.
    """
    lines = [*_folders(STUB_PATH), *_folders("PYTHONPATH")]
    if installation.in_virtual_environment:
        lines += [f"import site; site.addsitedir({each!r})" for each in site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        lines.append(f"import site; site.addsitedir({site.getusersitepackages()!r})")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "pyvenv.cfg": f"home = {installation.interpreter.resolve().parent}\n"
        "include-system-site-packages = true\n",
        f"lib/{version}/site-packages/caller.pth": "\n".join(lines) + "\n",
    }


def has_own_environment(installation: Installation) -> bool:
    """Whether the stubs' environment is that of `environment_files`."""
    added = bool(_folders(STUB_PATH) or _folders("PYTHONPATH"))
    return added or not installation.in_virtual_environment


def _folders(variable: str) -> list[str]:
    stated = os.environ.get(variable, "").split(os.pathsep)
    return [str(Path(folder).resolve()) for folder in stated if folder]


def _check_platform() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(
            f"The embedded Triton runs on Linux x86_64 only, not on {sys.platform} "
            f"{platform.machine()}.",
            "Run the official container there: nvcr.io/nvidia/tritonserver",
        )
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split("."))) < MINIMUM_GLIBC:
        raise Unavailable(
            f"The embedded Triton needs glibc {'.'.join(map(str, MINIMUM_GLIBC))} or newer; "
            f"this system has {library or 'none (musl?)'} {version}.",
            "Use Debian 12, Ubuntu 22.04 or newer, or run the official container.",
        )


def _check_numpy() -> None:
    stubs_own = next(iter(metadata.distributions(name="numpy", path=_folders(STUB_PATH))), None)
    version = stubs_own.version if stubs_own else metadata.version("numpy")
    if int(version.split(".", maxsplit=1)[0]) >= 2:
        raise Unavailable(
            f"NumPy {version} is installed; Triton's Python stub was built before NumPy 2 and "
            "would return empty outputs.",
            "Install an older one into this environment: pip install 'numpy<2'",
        )
