"""What a folder of results holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctclip_bench.results.files import read
from ctclip_bench.results.result import FORMAT, Result

_PARTS = (
    "device", "phases", "small", "graphs", "scenarios", "axes", "slices", "matrix", "upstream",
)  # fmt: skip
"""Settings of a plan that make it another measurement, and not the same once more."""


def newest(folder: Path) -> list[tuple[Path, Result]]:
    """The newest that passed of each kind, machine, release's geometry, precision and config, and
    of the same parts of the measurement.

    Files of another format, such as a parity check's, are passed over.
    Raises: Unreadable, InvalidInput for a damaged one.
    """
    found: dict[str, tuple[Path, Result]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            if json.loads(path.read_bytes()).get("format") != FORMAT:
                continue
        except (ValueError, AttributeError):
            pass  # `read` says what is wrong with it
        result = read(path)
        if not result.passed:
            continue
        about: list[Any] = [result.kind, result.machine_name]
        about += [result.plan.get(key) for key in _PARTS]
        about += [result.subject.get(key) for key in ("geometry", "precision", "config")]
        key = json.dumps(about)
        if key not in found or found[key][1].date <= result.date:
            found[key] = path, result
    return list(found.values())
