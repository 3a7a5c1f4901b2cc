"""Files of a text model's folder; nothing in them is ever executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctclip_client.errors import Unreadable

REMEDY = (
    "--text-model takes the folder of the checkpoint's own text model (for CT-CLIP: "
    "microsoft/BiomedVLP-CXR-BERT-specialized), with config.json and vocab.txt or tokenizer.json."
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises: Unreadable."""
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path}: not JSON ({error}).", REMEDY) from error
    if not isinstance(content, dict):
        raise Unreadable(f"{path}: expected a JSON object, got {type(content).__name__}.", REMEDY)
    return content


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises: Unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}.", REMEDY) from error
