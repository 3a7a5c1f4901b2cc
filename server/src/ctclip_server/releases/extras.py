"""What is made for a release after its export: engines, their warm-up, the ladder's verdict.

They change no answer's name, so that a release may come again with the same models and more of
these. Each file takes its place at once, and what a server has loaded stays loaded: it looks at
them when it is told to load, or started.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctclip_client.errors import InvalidInput
from ctclip_client.placing import placed
from ctclip_server.releases.checks import ReleaseRefusedError, read_record
from ctclip_server.releases.digest import sha256
from ctclip_server.releases.ladder import PLAN, LadderRecord, plans_of, read_ladder
from ctclip_server.releases.members import Members

ENGINE_RECORD = "engine.json"
WARMUP = "warmup"
Say = Callable[[str], None]


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


def take_over(pair: Pair, say: Say) -> None:
    """Take over what was made for a release since it was placed here, from a checked candidate.

    Nothing is taken if the verdict here is newer, or a failure that the other does not lift; that,
    and engines for another GPU than those that serve here, are said.

    Raises:
        ReleaseRefusedError: the models are others.
        LadderRefusedError: the verdict here is damaged.
        InvalidInput: the repository cannot be written.
    """
    _check_same_models(pair)
    ours, theirs = read_ladder(pair.members.repository, pair.version), _verdict(pair)
    if theirs is None:
        return  # and so without engines: the gate lets none in without a verdict
    if ours is not None and ours.release == theirs.release and _is_newer(ours, theirs):
        return
    present = plans_of(pair.members.repository, str(pair.version))
    engines = _engines(pair, present, say)
    present |= engines
    matching = {name: plan for name, plan in theirs.plans.items() if present.get(name) == plan}
    kept, stays = replace(theirs, plans=matching).after(ours, present)
    if stays:
        say(f"note: {stays}")
        return
    try:
        take_warmup(pair.members, pair.candidate, pair.source)
        # As they are built: with an old record or verdict beside it, a new engine is refused.
        for name in engines:
            for file in (PLAN, ENGINE_RECORD):
                _place(pair.there(name) / file, pair.here(name) / file)
        if kept != ours:
            kept.write(pair.members.repository, str(pair.version))
    except OSError as error:
        raise cannot_copy(pair.members, error) from error


def take_warmup(members: Members, candidate: Members, source: int) -> None:
    """Place the tensors that the candidate's engines are warmed up with, where there are none.

    They lie beside the versions: all have the same tensors. Raises: OSError.
    """
    for name in plans_of(candidate.repository, str(source)):
        for tensor in _files(candidate.repository / name / WARMUP):
            here = members.repository / name / WARMUP / tensor.name
            if not here.exists():
                here.parent.mkdir(exist_ok=True)
                _place(tensor, here)


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


def _is_newer(ours: LadderRecord, theirs: LadderRecord) -> bool:
    """Of two of the same date, or of none, a failure counts."""
    return ours.date > theirs.date or (ours.date == theirs.date and not ours.passed)


def _engines(pair: Pair, present: Mapping[str, str], say: Say) -> dict[str, str]:
    """SHA-256 of the candidate's engines by model, without those that would stop what serves."""
    engines = {}
    for name, digest in plans_of(pair.candidate.repository, str(pair.source)).items():
        here, there = _made_for(pair.here(name)), _made_for(pair.there(name))
        replaces = pair.version in pair.members.pinned() and present.get(name, digest) != digest
        if replaces and here not in ("", there):
            say(
                f"note: --from: the engine of '{name}' is for {there or 'an unknown GPU'}, the one "
                f"that serves here is for {here}, and stays. To replace it, build it on the "
                "server's GPU: ctclip build-engines."
            )
        elif name in pair.candidate.steps:
            engines[name] = digest
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


def _place(source: Path, to: Path) -> None:
    """Copy a file, unless it lies there already or there is none. Raises: OSError."""
    if not source.is_file() or (to.is_file() and sha256(to) == sha256(source)):
        return
    with source.open("rb") as original, placed(to) as copy:
        shutil.copyfileobj(original, copy, 1 << 20)
