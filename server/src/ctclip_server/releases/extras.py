"""What is made for a release after its export: engines, their warm-up, the ladder's verdict.

They change no answer's name, so that a release may come again with the same models and more of
these. They take their place all together or not at all. A server goes on with what it has loaded
until it is told to load, as `promote` tells it next, or started.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctclip_client.errors import InvalidInput
from ctclip_client.release.digest import sha256
from ctclip_client.system.files import destination, placed
from ctclip_server.releases.checks import ReleaseRefusedError, read_record
from ctclip_server.releases.ladder import PLAN, LadderRecord, read_ladder
from ctclip_server.releases.members import Members

ENGINE_RECORD = "engine.json"
WARMUP = "warmup"
Say = Callable[[str], None]
Place = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Pair:
    """One release in two repositories: `version` of `members`, and `source` of `candidate`."""

    members: Members
    version: int
    candidate: Members
    source: int

    def here(self, name: str) -> Path:
        return self.members.repository / name / str(self.version)

    def there(self, name: str) -> Path:
        return self.candidate.repository / name / str(self.source)


def take_over(pair: Pair, say: Say) -> tuple[str, ...]:
    """Take over what was made for a release since it was placed here, from a checked candidate.

    Nothing is taken if a failure here is newer, or not lifted by the other verdict. That is said,
    and which engines were judged before those here, or are for another GPU than those that serve.

    Returns:
        The models that have another engine now.

    Raises:
        ReleaseRefusedError: the models are others.
        LadderRefusedError: the verdict here is damaged.
        InvalidInput: the repository cannot be written.
    """
    _check_same_models(pair)
    before, theirs = read_ladder(pair.members.repository, pair.version), _verdict(pair)
    if theirs is None:
        return ()  # and so without engines: the gate lets none in without a verdict
    ours = before if before is not None and before.release == theirs.release else None
    present = _plans(pair.members, pair.version)
    engines = _engines(pair, ours, theirs, present, say)
    new = tuple(name for name, digest in engines.items() if present.get(name) != digest)
    kept, stays = _merged(ours, theirs, present | engines)
    if stays:
        say(f"note: {stays}" + (" So the engines of --from are not taken." if new else ""))
        return ()
    try:
        with all_or_nothing() as place:
            take_warmup(pair.members, pair.candidate, engines, place)
            # As they are built: with an old record or verdict beside it, a new engine is refused.
            for name in engines:
                for file in (PLAN, ENGINE_RECORD):
                    place(pair.there(name) / file, pair.here(name) / file)
            if kept != before:
                kept.write(pair.members.repository, str(pair.version))
    except OSError as error:
        raise cannot_copy(pair.members, error) from error
    return new


def with_engines(members: Members, version: int) -> tuple[str, ...]:
    """The models of a release that have an engine."""
    folders = {name: members.repository / name / str(version) for name in members.steps}
    return tuple(name for name, folder in folders.items() if (folder / PLAN).is_file())


def take_warmup(members: Members, candidate: Members, models: Iterable[str], place: Place) -> None:
    """Place the tensors that engines of `models` are warmed up with, where there are none.

    They lie beside the versions: all have the same tensors. Raises: OSError.
    """
    for name in models:
        for tensor in _files(candidate.repository / name / WARMUP):
            here = members.repository / name / WARMUP / tensor.name
            if not here.exists():
                here.parent.mkdir(exist_ok=True)
                place(tensor, here)


def cannot_copy(members: Members, error: OSError) -> InvalidInput:
    """What to say when a repository does not take a file."""
    return InvalidInput(
        f"repository: cannot copy the release into {members.repository}: "
        f"{error.strerror or error}.",
        "Make room for it, and run this where the repository may be written.",
    )


def _check_same_models(pair: Pair) -> None:
    """A name is a digest of the files; records that say otherwise are not to be built upon."""
    for name in pair.candidate.steps:
        ours = read_record(pair.members, name, pair.version)
        theirs = read_record(pair.candidate, name, pair.source)
        if ours["file_sha256"] != theirs["file_sha256"]:
            raise ReleaseRefusedError(
                f"--from: the {theirs['file']} of '{name}' has SHA-256 "
                f"{theirs['file_sha256'][:16]}… there and {ours['file_sha256'][:16]}… here, though "
                "both say that they are of the same release.",
                "One of the two is damaged: ctclip doctor REPOSITORY tells which.",
            )


def _verdict(pair: Pair) -> LadderRecord | None:
    """The candidate's verdict on this very release."""
    record = read_ladder(pair.candidate.repository, pair.source)
    about = read_record(pair.candidate, pair.candidate.steps[0], pair.source)["release"]["release"]
    return record if record is not None and record.release == about else None


def _merged(
    ours: LadderRecord | None, theirs: LadderRecord, present: Mapping[str, str]
) -> tuple[LadderRecord, str]:
    """The verdict to keep, with the engines that lie there then; why ours stays instead, or ""."""
    theirs = _about(theirs, present)
    if ours is None:
        return theirs, ""
    # Of two of the same date, or of none, a failure counts.
    if ours.date > theirs.date or (ours.date == theirs.date and not ours.passed):
        if not ours.passed:
            return ours, "the release failed here, later than its ladder passed there."
        return _about(ours, present).after(theirs, present)
    return theirs.after(_about(ours, present), present)


def _about(record: LadderRecord, present: Mapping[str, str]) -> LadderRecord:
    """A verdict without the engines that do not lie there."""
    plans = {name: plan for name, plan in record.plans.items() if present.get(name) == plan}
    return replace(record, plans=plans, engines_date=record.engines_date if plans else "")


def _plans(members: Members, version: int) -> dict[str, str]:
    """SHA-256 of the engines of a release, by model."""
    return {
        name: sha256(members.repository / name / str(version) / PLAN)
        for name in with_engines(members, version)
    }


def _engines(
    pair: Pair,
    ours: LadderRecord | None,
    theirs: LadderRecord,
    present: Mapping[str, str],
    say: Say,
) -> dict[str, str]:
    """SHA-256 of the candidate's engines by model, without those that must not replace ours."""
    engines = _plans(pair.candidate, pair.source)
    serves = pair.version in pair.members.pinned()
    is_older = ours is not None and ours.engines_date > theirs.engines_date
    for name in [name for name, digest in engines.items() if present.get(name) != digest]:
        here, there = _made_for(pair.here(name)), _made_for(pair.there(name))
        if serves and name in present and here not in ("", there):
            say(
                f"note: --from: the engine of '{name}' is for {there or 'an unknown GPU'}, the one "
                f"that serves here is for {here}, and stays. To replace it, build it on the "
                "server's GPU: ctclip build-engines."
            )
        elif is_older:
            say(
                f"note: --from: the engine of '{name}' is older than the verdict on engines here, "
                "and is not taken. To have it nevertheless, climb the ladder with it: "
                "make gpu-check."
            )
        else:
            continue
        del engines[name]
    return engines


def _made_for(folder: Path) -> str:
    """GPU architecture and TensorRT of an engine, in words; "" if its record does not say."""
    try:
        record: Any = json.loads((folder / ENGINE_RECORD).read_text("utf-8"))
        capability, library = record["compute_capability"], record["tensorrt_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"compute capability {capability} and TensorRT {library}"


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_file())


@contextmanager
def all_or_nothing() -> Iterator[Place]:
    """Inside, place files where they are not yet; after any error, all is as it was before."""
    done: list[tuple[Path, Path, bool]] = []

    def place(source: Path, to: Path) -> None:
        if not source.is_file() or (to.is_file() and sha256(to) == sha256(source)):
            return
        to = destination(to)
        old = to.with_name(f".{to.name}.{secrets.token_hex(6)}.old")
        done.append((to, old, to.exists()))
        if to.exists():
            try:
                os.link(to, old)  # under both names: a server that starts meanwhile finds it
            except OSError:  # a file system without links
                shutil.copyfile(to, old)
        with source.open("rb") as original, placed(to) as copy:
            shutil.copyfileobj(original, copy, 1 << 20)

    try:
        yield place
    except BaseException:
        for to, old, was_there in reversed(done):
            if old.exists():
                old.replace(to)
            elif not was_there:
                to.unlink(missing_ok=True)
        raise
    for _, old, _ in done:
        old.unlink(missing_ok=True)
