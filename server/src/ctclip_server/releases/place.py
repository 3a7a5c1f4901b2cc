"""Bring a release into the repository that is served: as a new version, whole."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ctclip_client.contract import CHECK
from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_client.release.digest import sha256
from ctclip_client.release.members import Members, pinned_version
from ctclip_client.release.records import read_model_record
from ctclip_client.release.repository import read_config
from ctclip_client.release.self_check import FILE as SELF_CHECK
from ctclip_server.releases.may_serve import check_graphs, check_release
from ctclip_server.releases.versions import replace, stated_versions, with_versions
from ctclip_server.self_check import check_is_of, load_self_check

_OTHER_TENSORS = (
    "One server serves releases of the same models and tensors. Where another ctclip exported one "
    "of them, export both again; another geometry, or another number of findings or of a trained "
    "head's classes, needs a repository and a server of its own."
)
WARMUP = "warmup"
"""Tensors that engines are warmed up with; beside the versions, since all have the same shapes."""


def place_release(members: Members, candidate: Members) -> int:
    """Place the candidate's release beside those of `members`; return its version there.

    What is served does not change: configs keep naming the versions that they name, and the
    candidate's are left behind. A release that is there with the same engines and self-check is not
    placed twice: its own parity runs count.

    Args:
        members: the repository that is served.
        candidate: the repository that the release was exported to.

    Raises:
        ReleaseRefusedError, SelfCheckError: the candidate may not serve, or lacks a graph that a
            config of `members` loads.
        Unreadable: its self-check is damaged.
        InvalidInput: its tensors are others, or the repository cannot be written.
    """
    source = pinned_version(candidate)
    release = check_release(candidate, source)
    check_is_of(load_self_check(candidate.repository, source), release.record.name)
    _check_same_tensors(members, candidate)
    check_graphs(members, candidate, source)
    content = _content(candidate, source)
    for version in members.complete_versions():
        if content is not None and _content(members, version) == content:
            return version
    _name_served_versions(members)
    # Above every folder there is: leftovers of an interrupted copy, too.
    version = 1 + max(max(members.versions(name), default=0) for name in members.all)
    _copy(members, candidate, source, version)
    return version


def _content(members: Members, version: int) -> tuple[str, dict[str, str], str] | None:
    """What tells two versions apart: the release, its engines, its self-check."""
    check = members.folder(CHECK.name, version) / SELF_CHECK
    try:
        name = read_model_record(members.folder(members.steps[0], version)).release.name
        return name, members.engines(version), sha256(check) if check.exists() else ""
    except (CTClipError, OSError):
        return None  # what cannot be read is not the same


def _check_same_tensors(members: Members, candidate: Members) -> None:
    """One config serves both versions, so it has to fit both."""
    if odd := sorted(set(members.all) ^ set(candidate.all)):
        raise InvalidInput(
            f"--from: '{odd[0]}' is in one of the two repositories only.", _OTHER_TENSORS
        )
    for name in members.all:
        ours, theirs = read_config(members.config(name)), read_config(candidate.config(name))
        for field in ("max_batch_size", "input", "output"):
            if getattr(ours, field) != getattr(theirs, field):
                raise InvalidInput(
                    f"--from: '{name}' has another {field} there: {_one_line(theirs, field)}, "
                    f"here {_one_line(ours, field)}.",
                    _OTHER_TENSORS,
                )


def _one_line(config: Any, field: str) -> str:
    value = getattr(config, field)
    if isinstance(value, int):
        return str(value)
    return "; ".join(f"{tensor.name} {list(tensor.dims)}" for tensor in value)


def _name_served_versions(members: Members) -> None:
    """Without a version policy Triton would take the newest folder at its next start."""
    for name in members.all:
        for path in members.config_files(name):
            if stated_versions(read_config(path)) is None:
                replace(path, with_versions(path, members.pinned()))


def _copy(members: Members, candidate: Members, source: int, version: int) -> None:
    # Steps last: an interrupted copy leaves no step folder that belongs to no release.
    models = (*members.ensembles, *members.steps)
    warmups = [
        (warmup, to)
        for name in models
        if (warmup := candidate.repository / name / WARMUP).is_dir()
        and not (to := members.repository / name / WARMUP).exists()
    ]
    folders = [(candidate.folder(name, source), members.folder(name, version)) for name in models]
    placed: list[Path] = []
    try:
        for original, to in warmups + folders:
            work = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
            try:
                shutil.copytree(
                    original, work / "new", ignore=shutil.ignore_patterns("__pycache__")
                )
                placed.append(to)  # before it is there, so that no interruption can lose it
                try:
                    (work / "new").rename(to)
                except OSError:
                    placed.pop()  # what is there is somebody else's
                    raise
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except BaseException as error:
        for path in placed:
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise InvalidInput(
                f"repository: cannot copy the release into {members.repository}: "
                f"{error.strerror or error}.",
                "Make room for it, and run this where the repository may be written.",
            ) from error
        raise
