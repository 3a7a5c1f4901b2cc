"""Whether the files that are judged are those that the export judged: both sides would use them."""

from __future__ import annotations

import json
from pathlib import Path

from ctclip_client.release.digest import sha256


def changed_files(repository: Path, version: str) -> str:
    """Names the files of a release that its `provenance.json` does not describe; "" if all are."""
    changed = []
    for record in sorted(repository.glob(f"*/{version}/provenance.json")):
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            file = record.parent / str(content["file"])
            good = file.is_file() and sha256(file) == content["file_sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            changed.append(f"{record.parent.parent.name}: provenance.json")
            continue
        if not good:
            changed.append(f"{record.parent.parent.name}: {content['file']}")
    if not changed:
        return ""
    return f"{', '.join(changed)} is not the file that provenance.json describes"
