"""The Python processes of a Triton, one for each instance of a model that runs in Python."""

from __future__ import annotations

import contextlib
from pathlib import Path


def dead_stubs(triton_pid: int) -> set[int]:
    """Process ids of Triton's children that have ended and that it has not taken notice of.

    Linux only. A stub that Triton ends itself is among them for a moment.
    """
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            _, _, fields = path.read_text("utf-8", "replace").rpartition(")")
            state, parent = fields.split()[:2]
            if state == "Z" and int(parent) == triton_pid:
                found.add(int(path.parent.name))
    return found
