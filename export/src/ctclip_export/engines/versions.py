"""Which TensorRT is loaded: its library says it itself.

The `__version__` of the Python package is a text in its wheel. In NVIDIA's images the library comes
from the image and the wheel finds it there, whichever it is: the two can differ.

    python -m ctclip_export.engines.versions TARGET

ends with an error where they do; the build of the engines' image runs it.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from ctclip_client.errors import CTClipError
from ctclip_export.engines.target import TARGETS, EngineError, load_library

_PARTS = ("Major", "Minor", "Patch", "Build")


def library_version(library: Any) -> str:
    """Version of the shared library that the bindings have loaded, such as "11.2.1.2".

    Asked by the C functions getInferLib…Version of NvInferRuntime.h, which TensorRT and TensorRT
    for RTX both export. library: the module of `load_library`.
    Raises: EngineError where they are missing, as in libraries before TensorRT 10.
    """
    # A symbol that is looked up in the extension is found in the libraries that it is linked to:
    # no file name, which differs by target and version, has to be known.
    extension = importlib.import_module(library.Builder.__module__).__file__
    try:
        found = ctypes.CDLL(extension)
        return ".".join(str(getattr(found, f"getInferLib{part}Version")()) for part in _PARTS)
    except (OSError, AttributeError) as error:
        raise EngineError(
            f"TensorRT: its library does not tell its version ({error}).",
            "Take the version of the image that serves.",
        ) from error


def check_bindings(library: Any) -> str:
    """The library's version, if that is the one that the Python package was made for.

    Raises: EngineError naming both.
    """
    found, made_for = library_version(library), str(library.__version__)
    if re.sub(r"\.post\d+$", "", made_for) != found:  # a package that was packed again
        raise EngineError(
            f"TensorRT: the Python bindings are of {made_for}, the library is {found}.",
            "Name the bindings of the library's version (TENSORRT_BINDINGS, in docker-compose.yml "
            "CTCLIP_TENSORRT_BINDINGS).",
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the target that is named; print the version that both have."""
    (name,) = sys.argv[1:] if arguments is None else arguments
    try:
        version = check_bindings(load_library(TARGETS[name]))
    except CTClipError as error:
        print(f"error: {error.cause}\n{error.remedy}", file=sys.stderr)
        return error.exit_code
    print(f"{name} {version}: bindings and library agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
