"""What a folder of results holds."""

from __future__ import annotations

import json
from pathlib import Path

from ctclip_bench.results.files import read
from ctclip_bench.results.result import FORMAT, Result


def newest(folder: Path) -> list[tuple[Path, Result]]:
    """The newest result of each kind, machine, device, geometry, precision and config that passed.

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
        about = [result.kind, result.machine["processor"], result.machine.get("gpu")]
        about += [result.plan.get(key) for key in ("device", "phase", "small")]
        about += [result.subject.get(key) for key in ("geometry", "precision", "config")]
        key = json.dumps(about)
        if key not in found or found[key][1].date <= result.date:
            found[key] = path, result
    return list(found.values())
