"""What a file is told by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_CHUNK_BYTES = 4 << 20


def sha256(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of a file's content, hexadecimal, as provenance and parity runs record it.

    advance: told the bytes as they are read. Raises: OSError.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
