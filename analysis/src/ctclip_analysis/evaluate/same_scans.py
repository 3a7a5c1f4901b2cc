"""Whether two files are about the same scans, without their names in either.

Names are compared as `scan_names.match_names` compares them, by digests of their parts: a file of
thresholds is handed on, and must not tell whom they were fitted on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256

from ctclip_analysis.scan_names import parts_from_end, reconstruction

_DIGITS = 12
_BETWEEN = "/"


def digests_of(names: Sequence[str]) -> tuple[str, ...]:
    """One text a scan: the digest of its name, then those of its folders, the innermost first.

    A name of CT-RATE needs no folder, and its reconstructions are one scan; one that is there once
    has the folder that it lies in; others have all.
    """
    known = ((reconstruction(name), name) for name in names)
    paths = {parts_from_end(name) if found is None else (found.scan,) for found, name in known}
    times = Counter(path[0] for path in paths)
    return tuple(sorted(
        _BETWEEN.join(map(_digest, path[:2] if times[path[0]] == 1 else path)) for path in paths
    ))  # fmt: skip


def shared(here: Iterable[str], there: Iterable[str]) -> int:
    """How many scans are on both sides: as many parts are the same as both tell.

    What may be several of the other side (`ct.nii`, where each patient has one) is none of them.
    """
    theirs = {tuple(each.split(_BETWEEN)) for each in there}
    starting = defaultdict(list)
    for path in theirs:
        for length in range(1, len(path) + 1):
            starting[path[:length]].append(path)
    taken: list[tuple[str, ...]] = []
    for path in {tuple(each.split(_BETWEEN)) for each in here}:
        shorter = [path[:length] for length in range(1, len(path)) if path[:length] in theirs]
        similar = [path] if path in theirs else [*shorter, *starting[path]]
        taken += similar if len(similar) == 1 else []
    return sum(times == 1 for times in Counter(taken).values())


def _digest(part: str) -> str:
    return sha256(part.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGITS]
