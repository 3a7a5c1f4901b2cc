"""Take a release from the repository it was exported to into the one that is served."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from ctclip_client.contract import CHECK, ENSEMBLES, MODELS
from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_client.release.self_check import FILE as SELF_CHECK
from ctclip_server.releases.checks import check_release, release_name
from ctclip_server.releases.extras import (
    Pair,
    Say,
    all_or_nothing,
    cannot_copy,
    take_over,
    take_warmup,
    with_engines,
)
from ctclip_server.releases.members import Members
from ctclip_server.releases.versions import replace, stated_versions, with_versions
from ctclip_server.repository import read_config
from ctclip_server.self_check import check_is_of, load_self_check

_ALWAYS_THERE = {model.name for model in MODELS} | {ensemble.name for ensemble in ENSEMBLES}
_OTHER_CTCLIP = "One of the two was exported by another version of ctclip: export both again."
_OTHER_MODELS = (
    "Both need the same models (ClassFine in both or in neither). Serve the new one from a "
    "repository of its own."
)
_OTHER_SIZES = "Another geometry or number of findings needs a repository and a server of its own."


class TakenIn(NamedTuple):
    """version: of the release, in the repository that is served.

    engines: models whose engine in a version that was there before is another one now.
    """

    version: int
    engines: tuple[str, ...] = ()


def take_in(members: Members, candidate: Members, say: Say = lambda _: None) -> TakenIn:
    """Place the candidate's release beside those of `members`.

    What is served does not change: configs keep naming the versions that they name. A release that
    is there already is not placed twice: only its engines and verdict are taken over, if newer, and
    its self-check, if it lacks a good one.

    Args:
        members: the repository that is served.
        candidate: the repository that the release was exported to.
        say: told what was not taken over, and why.

    Raises:
        ReleaseRefusedError, LadderRefusedError, SelfCheckError: the candidate may not serve.
        Unreadable: its self-check is damaged.
        InvalidInput: its tensors are others, or the repository cannot be written.
    """
    pinned = candidate.pinned()
    if len(pinned) != 1:
        raise InvalidInput(
            f"--from: the ensembles of {candidate.repository} pin versions {sorted(pinned)}, "
            "expected one.",
            "Name a repository that ctclip export made.",
        )
    source = min(pinned)
    release = check_release(candidate, source)
    check_is_of(load_self_check(candidate.repository, source), release.name)
    _check_same_tensors(members, candidate)
    for version in members.complete_versions():
        if release_name(members, version) == release.name:
            pair = Pair(members, version, candidate, source)
            engines = take_over(pair, say)
            _take_self_check(pair, release.name)
            return TakenIn(version, engines)
    _name_served_versions(members)
    # Above every folder there is: leftovers of an interrupted copy, too.
    version = 1 + max(max(members.versions(name), default=0) for name in members.all)
    _copy(members, candidate, source, version)
    return TakenIn(version)


def _take_self_check(pair: Pair, release: str) -> None:
    """Where this release has none here, or no good one; that of the candidate was checked."""
    here, there = (folder(CHECK.name) / SELF_CHECK for folder in (pair.here, pair.there))
    try:
        present = load_self_check(pair.members.repository, pair.version)
        check_is_of(present, release)
    except CTClipError:
        present = None
    if present is None and there.exists():
        try:
            with all_or_nothing() as place:
                place(there, here)
        except OSError as error:
            raise cannot_copy(pair.members, error) from error


def _check_same_tensors(members: Members, candidate: Members) -> None:
    """One config serves both versions, so it has to fit both."""
    if set(members.all) != set(candidate.all):
        odd = set(members.all) ^ set(candidate.all)
        foreign = sorted(odd & _ALWAYS_THERE)
        raise InvalidInput(
            f"--from: '{(foreign or sorted(odd))[0]}' is in one of the two repositories only.",
            _OTHER_CTCLIP if foreign else _OTHER_MODELS,
        )
    for name in members.all:
        ours, theirs = read_config(members.config(name)), read_config(candidate.config(name))
        remedy = _OTHER_SIZES if _fixed(ours) == _fixed(theirs) else _OTHER_CTCLIP
        for field in ("max_batch_size", "input", "output"):
            if getattr(ours, field) != getattr(theirs, field):
                raise InvalidInput(
                    f"--from: '{name}' has another {field} there: {_one_line(theirs, field)}, "
                    f"here {_one_line(ours, field)}.",
                    remedy,
                )


def _fixed(config: Any) -> tuple[object, ...]:
    """What one version of ctclip gives a model in every export: all but its tensors' sizes."""
    tensors = [
        [(tensor.name, tensor.data_type, len(tensor.dims)) for tensor in side]
        for side in (config.input, config.output)
    ]
    return config.max_batch_size, tensors


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
    placed: list[Path] = []
    try:
        with all_or_nothing() as place:
            take_warmup(members, candidate, with_engines(candidate, source), place)
            # Steps last: an interrupted copy leaves no step folder that belongs to no release.
            for name in (*members.ensembles, *members.steps):
                folder = members.repository / name
                work = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=folder))
                try:
                    original = candidate.repository / name / str(source)
                    shutil.copytree(
                        original, work / "new", ignore=shutil.ignore_patterns("__pycache__")
                    )
                    placed.append((work / "new").rename(folder / str(version)))
                finally:
                    shutil.rmtree(work, ignore_errors=True)
    except BaseException as error:
        for path in placed:
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise cannot_copy(members, error) from error
        raise
