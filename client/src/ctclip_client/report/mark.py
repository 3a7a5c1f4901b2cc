"""Marks of pages and maps: which scan they are about, and which answer a page shows.

Names of files do not tell that: `a/ct.nii.gz` alone is `ct.html`, and so is `b/ct.nii.gz`.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEAD_BYTES = 16_384
"""A page's mark and title stand in them."""
_MARK = re.compile(r'<meta name="ctclip-scan" content="([0-9a-f]{64}) ([0-9a-f]{64})">')
_TITLE = re.compile(r"<title>(.*?): CT-CLIP</title>", re.S)


@dataclass(frozen=True)
class Mark:
    """SHA-256 of where the scan lies, and of its name and the answer. title: of a page that was
    read: what it calls the scan."""

    scan: str
    answer: str
    title: str = ""

    def __str__(self) -> str:
        return f"{self.scan} {self.answer}"


def answer_mark(row: Mapping[str, Any]) -> str:
    """Of a result, as a journal keeps it or is about to."""
    return _digest([row[name] for name in ("path", "series", "findings", "recipe", "provenance")])


def scan_mark(path: str | os.PathLike[str], series: str | None) -> str:
    """The same by whatever way the folder is reached, and never a name."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 (Path's follows links)
    return _digest([os.path.join(os.path.realpath(folder), name), series])  # noqa: PTH118


def read_mark(page: Path) -> Mark | None:
    """The mark of a page; None where there is no page of a scan.

    Raises: OSError where something is there that cannot be read.
    """
    try:
        with page.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    found, title = _MARK.search(head), _TITLE.search(head)
    return found and Mark(found[1], found[2], html.unescape(title[1]) if title else "")


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
