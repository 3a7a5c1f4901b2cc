"""Whether a version of a repository may serve: one release, as exported, its parity runs passed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctclip_client.errors import CTClipError
from ctclip_client.release.json_records import EXPORT_AGAIN
from ctclip_client.release.members import Members
from ctclip_client.release.parity_runs import objection, read_runs
from ctclip_client.release.records import (
    PROVENANCE,
    ModelRecord,
    ReleaseRecord,
    read_model_record,
)
from ctclip_client.release.repository import VersionFolder
from ctclip_client.release.served_graphs import served_graphs_problem

_COMPARE = (
    "Compare it anew: ctclip parity, with engines on the GPU that they were built for (make "
    "gpu-check). If that fails, export it in a higher precision."
)


class ReleaseRefusedError(CTClipError):
    """A version that may not serve. Exit code 1: a check failed."""


@dataclass(frozen=True)
class Release:
    """One version that may serve. record: what PROVENANCE tells a client."""

    version: int
    record: ReleaseRecord

    def __str__(self) -> str:
        return f"version {self.version} (release {self.record.name})"


def check_release(members: Members, version: int) -> Release:
    """Check all members of one version, and read every file once for its SHA-256.

    Raises:
        ReleaseRefusedError: with the first reason against it.
        Unreadable: a file is missing or damaged, so that nothing is known of the release.
    """
    missing = sorted(name for name in members.all if version not in members.versions(name))
    if missing:
        raise ReleaseRefusedError(
            f"release: version {version} is incomplete: '{missing[0]}' has no such version.",
            "Place all models of a release: ctclip promote --from REPOSITORY does.",
        )
    records = {name: read_model_record(members.folder(name, version)) for name in members.steps}
    release = _same_release(records, version)
    for name, record in records.items():
        _check_model(members.folder(name, version), name, record)
    check_graphs(members, members, version)
    runs = read_runs(members.repository, version)
    engines = members.engines(version)
    if reason := objection(runs, engines):
        raise ReleaseRefusedError(f"release: version {version} may not serve: {reason}.", _COMPARE)
    return Release(version, release)


def check_graphs(members: Members, source: Members, version: int) -> None:
    """Check that a version of `source` has all graphs that configs of `members` load, as recorded.

    Raises:
        ReleaseRefusedError: it does not.
        Unreadable: a config or a record is damaged.
    """
    for name in members.steps:
        folder = source.folder(name, version)
        configs = members.config_files(name)
        if problem := served_graphs_problem(folder, read_model_record(folder), configs):
            whose = "" if source == members else f"for the configs of {members.repository}: "
            raise ReleaseRefusedError(
                f"release: '{name}' version {version}: {whose}{problem}.", EXPORT_AGAIN
            )


def _same_release(records: dict[str, ModelRecord], version: int) -> ReleaseRecord:
    first, *others = records
    release = records[first].release
    for name in others:
        if records[name].release != release:
            raise ReleaseRefusedError(
                f"release: version {version} mixes two releases: '{first}' is of {release.name}, "
                f"'{name}' of {records[name].release.name}.",
                EXPORT_AGAIN,
            )
    return release


def _check_model(folder: Path, name: str, record: ModelRecord) -> None:
    if failure := record.parity_failure:
        raise ReleaseRefusedError(
            f"release: '{name}' version {folder.name} failed the export's parity check: {failure}.",
            EXPORT_AGAIN,
        )
    version = VersionFolder(folder, int(folder.name))
    for file, expected in record.files.items():
        if (found := version.sha256(file)) != expected:
            raise ReleaseRefusedError(
                f"release: {folder / file} has SHA-256 {found[:16]}…, {PROVENANCE} says "
                f"{expected[:16]}…: it is not the file that was checked.",
                EXPORT_AGAIN,
            )
