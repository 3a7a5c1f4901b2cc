"""What scans are called in everything that a run writes: by their names, or by SHA-256 of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ctclip_client.errors import CTClipError
from ctclip_client.readers.find import Scan
from ctclip_client.readers.format import hidden
from ctclip_client.volume import Source

Key = tuple[str, str | None]
"""A scan's path and SeriesInstanceUID, as rows of results have them."""
WITHHELD = "withheld, since it names files: ctclip doctor PATH tells it"
_UID = re.compile(r"\b\d+(?:\.\d+){4,}\b")
"""DICOM's unique identifiers; no number and no version has so many dots."""
_DIGEST = re.compile(r"(?=.*[a-f])[0-9a-f]{64}")
_PATH = re.compile(r"(?<!\d)/(?=\S)|(?<=\S)/(?!\d)|\\")
"""A slash that stands in a path, and not in 1/32 HU."""
_QUOTED = re.compile(r"(?<!\w)(['\"]).*?\1(?!\w)", re.S)
"""What a file says: it may be the name of another one."""
_SHORTEST = 3
"""Shorter words are no names, or stand in every sentence: a scan may be called 1.nii."""


@dataclass(frozen=True)
class Names:
    """hashed: paths and SeriesInstanceUIDs are replaced by the SHA-256 of their bytes.

    The same name has the same SHA-256 in every run, so that a later run knows what is done. Whoever
    can guess a name can confirm the guess.
    """

    hashed: bool = False

    def path(self, path: str | os.PathLike[str]) -> str:
        """A path as it was given, or its SHA-256 (64 hexadecimal digits)."""
        return sha256(os.fsencode(path)).hexdigest() if self.hashed else str(path)

    def series(self, uid: str | None) -> str | None:
        """Likewise for a SeriesInstanceUID."""
        return _hidden(uid) if self.hashed and uid is not None else uid

    def key(self, scan: Scan) -> Key:
        """By which the rows of a scan are known again."""
        return self.path(scan.path), self.series(scan.series)

    def text(self, text: str, path: Path) -> str:
        """A sentence about a scan. What may still name a file of it is withheld as a whole."""
        if not self.hashed:
            return text
        name = self.path(path)
        # A file within a folder or an archive goes with it: FOLDER/NAME, up to what is said of it.
        within = r"[/\\](?:(?!: ).)*"
        whole = re.compile(rf"(?<![\w./]){re.escape(str(path))}(?:{within}|(?!\w))", re.S)
        if len(str(path)) >= _SHORTEST:
            text = whole.sub(name, text)
        elif text.startswith(str(path)):  # and not the 1 of "slope 1"
            text = whole.sub(name, text, 1)
        text = _UID.sub(lambda found: _hidden(found[0]), text)
        parts = (re.escape(part) for part in {path.name, path.name.partition(".")[0]}
                 if len(part) >= _SHORTEST)  # fmt: skip
        names = re.compile("|".join(rf"(?<!\w)(?:{part})(?!\w)" for part in parts) or "(?!)", re.I)
        return WITHHELD if _PATH.search(text) or names.search(text) else _QUOTED.sub("'…'", text)

    def source(self, source: Source, path: Path) -> Source:
        """How a volume came about, without names."""
        if not self.hashed:
            return source
        changed: dict[str, Any] = {}
        for name in (entry.name for entry in fields(source)):
            value = getattr(source, name)
            if name == "path":
                changed[name] = value and self.path(path)
            elif name == "series":
                changed[name] = self.series(value)
            elif name != "sha256" and isinstance(value, str):
                changed[name] = self.text(value, path)
            elif isinstance(value, tuple) and all(isinstance(each, str) for each in value):
                changed[name] = tuple(self.text(each, path) for each in value)
        return replace(source, **changed)

    def error(self, error: CTClipError, path: Path) -> CTClipError:
        """The same error about the scan, without names."""
        if not self.hashed:
            return error
        told = type(error)(self.text(error.cause, path), self.text(error.remedy, path))
        return told.with_traceback(None)


def _hidden(text: str) -> str:
    if _DIGEST.fullmatch(text):  # hidden already, by whoever read the header
        return text
    return hidden(text)
