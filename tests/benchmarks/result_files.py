"""The JSON file that a command has left in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def written(out: Path) -> dict[str, Any]:
    """What lies there, one file alone."""
    (path,) = out.iterdir()
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def table(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Rows of one table."""
    return [row for row in found["rows"] if row["table"] == name]
