"""Folders for what a run writes of each scan."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ctclip_client.batch.names import Key, Names
from ctclip_client.readers import SUFFIXES, Scan


def folder_names(scans: Sequence[Scan], names: Names) -> dict[Key, Path]:
    """A folder for each scan: its name without .nii.gz, below the folders that tell scans apart.

    `a/ct.nii.gz` and `b/ct.nii.gz` become `a/ct` and `b/ct`; two scans of one folder that would
    share a name keep their suffixes, and two series of one path lie in folders of their own in it.
    Where names are hashed, the SHA-256 is the folder.
    """
    if names.hashed:
        return {names.key(each): Path(*filter(None, names.key(each))) for each in scans}
    absolute = {each.path: Path(os.path.abspath(each.path)) for each in scans}  # noqa: PTH100 (no links)
    common = os.path.commonpath([path.parent for path in absolute.values()])
    short = {path: path.parent.relative_to(common) / _stem(path) for path in absolute.values()}
    whole = {path: path.parent.relative_to(common) / path.name for path in short}
    # Again, as the whole name of one may be another's short one: a.nii, a.nii.gz, a.nii.nii.
    while shared := _shared(short, whole):
        short |= shared
    series = Counter(each.path for each in scans)
    folders = {}
    for each in scans:
        path = absolute[each.path]
        folder = short[path]
        if series[each.path] > 1 and each.series:
            folder /= each.series
        folders[names.key(each)] = folder
    return folders


def _shared(names: Mapping[Path, Path], whole: Mapping[Path, Path]) -> dict[Path, Path]:
    """The whole names of those that share a name, and could do otherwise."""
    taken = Counter(names.values())
    return {path: whole[path] for path, name in names.items()
            if taken[name] > 1 and name != whole[path]}  # fmt: skip


def _stem(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.name
