"""Whether the files that are judged are those that the export judged: both sides would use them."""

from __future__ import annotations

from pathlib import Path

from ctclip_client.errors import Unreadable
from ctclip_client.release.digest import sha256
from ctclip_client.release.records import PROVENANCE, read_model_record


def changed_files(repository: Path, version: str) -> str:
    """Names the files of a release that its `provenance.json` does not describe; "" if all are."""
    changed = []
    for path in sorted(repository.glob(f"*/{version}/{PROVENANCE}")):
        model = path.parent.parent.name
        try:
            record = read_model_record(path.parent)
        except Unreadable:
            changed.append(f"{model}: {PROVENANCE}")
            continue
        file = path.with_name(record.file)
        if not file.is_file() or sha256(file) != record.file_sha256:
            changed.append(f"{model}: {record.file}")
    if not changed:
        return ""
    return f"{', '.join(changed)} is not the file that provenance.json describes"
