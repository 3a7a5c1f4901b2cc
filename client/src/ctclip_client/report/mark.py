"""Marks of pages: which scan a page is about, and which answer it shows.

Names of pages do not tell that: `a/ct.nii.gz` alone is `ct.html`, and so is `b/ct.nii.gz`.
"""

from __future__ import annotations

import hashlib
import html
import json
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
    """SHA-256 of the scan's path and series, and of these and the answer. title: of a page that
    was read: what it calls the scan."""

    scan: str
    answer: str
    title: str = ""

    def __str__(self) -> str:
        return f"{self.scan} {self.answer}"


def mark_of(row: Mapping[str, Any]) -> Mark:
    """The mark of the page of a result, as a journal keeps it or is about to."""
    answer = [row[name] for name in ("path", "series", "findings", "recipe", "provenance")]
    return Mark(scan_mark(row["path"], row["series"]), _digest(answer))


def scan_mark(path: str, series: str | None) -> str:
    """path, series: as rows have them."""
    return _digest([path, series])


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
