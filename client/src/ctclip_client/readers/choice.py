"""Which series of a path is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ctclip_client.errors import InvalidInput
from ctclip_client.readers.format import Series, hidden
from ctclip_client.system.terminal import command_line

_SHOWN = 20
_UID = re.compile(r"[0-9.]+")


def chosen(found: Sequence[Series], path: Path, uid: str | None) -> Series:
    """The series that was asked for by its SeriesInstanceUID, or the one to take by default.

    Raises: InvalidInput where there is no such series.
    """
    if uid is None:
        return found[0]
    for series in found:
        if series.uid in (uid, hidden(uid)):  # the latter where it is no UID
            return series
    uids = [series.uid for series in found if series.uid is not None]
    if not uids:
        raise InvalidInput(
            f"{path}: holds one scan and no series, got a series.", "Leave --series away."
        )
    told = f" ({uid})" if _UID.fullmatch(uid) else ""  # else it may be a name
    more = f" and {len(uids) - _SHOWN} others" if len(uids) > _SHOWN else ""
    raise InvalidInput(
        f"{path}: no such series{told}, expected one of {', '.join(uids[:_SHOWN])}{more}.",
        f"ctclip series {command_line(path)} says what they are.",
    )
