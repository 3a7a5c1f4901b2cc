"""Reasons as they are kept: without paths, which may name a user or a patient."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_PATH = re.compile(
    r"""'~?/[^'\n]*'|"~?/[^"\n]*"|(?<![\w.:/~])~?/(?:[^\s'",;:]|:(?=\S))*[^\s'",;:.()\[\]]"""
)
"""In quotation marks with all that stands in them, otherwise up to a space."""


def without_paths(reason: str, known: Iterable[Path | None] = ()) -> str:
    """The same with "a path" in the place of each absolute path.

    known: paths that may be in it, relative or with spaces; what lies beside them goes, too.
    """
    spellings: set[str] = set()
    for path in known:
        if path is None:
            continue
        for each in (path.absolute(), path.resolve()):
            spellings.update(str(folder) for folder in (each, *each.parents[:-1]))
        if len(path.parts) > 1:  # a single word may well be another word of the reason
            spellings.add(str(path))
    for spelling in sorted(spellings, key=len, reverse=True):
        reason = reason.replace(spelling, "/_")
    return _PATH.sub("a path", reason)
