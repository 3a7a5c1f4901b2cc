"""Whether a version of a repository may serve: one release, as exported, with its ladder passed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctclip_client.errors import CTClipError
from ctclip_client.release.digest import sha256
from ctclip_server.releases.ladder import check_ladder
from ctclip_server.releases.members import PROVENANCE, Members
from ctclip_server.repository import read_config

_EXPORT = "Export it again: ctclip export checks every file before it writes this record."


class ReleaseRefusedError(CTClipError):
    """A version that may not serve. Exit code 1: a check failed."""


@dataclass(frozen=True)
class Release:
    """One version that may serve. record: what PROVENANCE tells a client."""

    version: int
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The release's name, a digest of everything that can change an answer."""
        return str(self.record["release"])

    def __str__(self) -> str:
        return f"version {self.version} (release {self.name})"


def check_release(members: Members, version: int) -> Release:
    """Check all members of one version, and read every file once for its SHA-256.

    Raises:
        ReleaseRefusedError, LadderRefusedError: with the first reason against it.
    """
    missing = sorted(name for name in members.all if version not in members.versions(name))
    if missing:
        raise ReleaseRefusedError(
            f"release: version {version} is incomplete: '{missing[0]}' has no such version.",
            "Place all models of a release: ctclip promote --from REPOSITORY does.",
        )
    records = {name: read_record(members, name, version) for name in members.steps}
    first, *others = members.steps
    for name in others:
        if records[name]["release"] != records[first]["release"]:
            raise ReleaseRefusedError(
                f"release: version {version} mixes two releases: '{first}' is of "
                f"{records[first]['release'].get('release')}, '{name}' of "
                f"{records[name]['release'].get('release')}.",
                _EXPORT,
            )
    for name in members.steps:
        _check_parity(members, name, version, records[name])
    for name in members.steps:
        _check_file(members.repository / name / str(version), records[name])
    release = Release(version, records[first]["release"])
    check_ladder(members, version, release.name)
    return release


def release_name(members: Members, version: int) -> str:
    """The name that a version's records give it, unchecked; empty if it has none."""
    for name in members.steps:
        path = members.repository / name / str(version) / PROVENANCE
        try:
            return str(json.loads(path.read_text("utf-8"))["release"]["release"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ""


def read_record(members: Members, name: str, version: int) -> dict[str, Any]:
    """A model's `provenance.json`: release, file and its SHA-256. Raises: ReleaseRefusedError."""
    path = members.repository / name / str(version) / PROVENANCE
    try:
        record = json.loads(path.read_text("utf-8"))
        release, file, digest = record["release"], record["file"], record["file_sha256"]
        good = isinstance(release, dict) and all(
            isinstance(value, str) for value in (release["release"], file, digest)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseRefusedError(
            f"release: {path} is missing or damaged ({type(error).__name__}): nothing says where "
            f"'{name}' came from.",
            _EXPORT,
        ) from error
    if not good or Path(file).name != file:
        raise ReleaseRefusedError(f"release: {path} is no record of an export.", _EXPORT)
    return dict(record)


def _check_parity(members: Members, name: str, version: int, record: Mapping[str, Any]) -> None:
    """Models that compute need results; the Python models only hand on text and numbers."""
    if read_config(members.config(name)).backend == "python":
        return
    results = record.get("parity")
    if not isinstance(results, list) or not results:
        raise ReleaseRefusedError(
            f"release: '{name}' version {version} has no parity results: it was never compared "
            "with the reference.",
            _EXPORT,
        )
    for result in results:
        measured = result.get("measured", 0.0) if isinstance(result, dict) else None
        if not isinstance(measured, int | float) or not math.isfinite(measured):
            raise ReleaseRefusedError(
                f"release: '{name}' version {version} has a damaged parity result.", _EXPORT
            )
        if result.get("verdict", "PASS") == "FAIL":
            raise ReleaseRefusedError(
                f"release: '{name}' version {version} failed its parity check: "
                f"{result.get('reason') or result.get('quantity') or result}.",
                "Only a release whose ladder has passed may serve.",
            )


def _check_file(folder: Path, record: Mapping[str, Any]) -> None:
    path = folder / record["file"]
    try:
        found = sha256(path)
    except OSError as error:
        raise ReleaseRefusedError(f"release: {path}: {error.strerror}.", _EXPORT) from error
    if found != record["file_sha256"]:
        raise ReleaseRefusedError(
            f"release: {path} has SHA-256 {found[:16]}…, {PROVENANCE} says "
            f"{record['file_sha256'][:16]}…: it is not the file that was checked.",
            _EXPORT,
        )
