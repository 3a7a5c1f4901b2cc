"""`ladder.json`: what `ctclip parity` said of a release, kept beside it. A failed one never serves.

The export's own comparisons, in every `provenance.json`, let a release in. The ladder goes further:
other scans, other runtimes, engines on the GPU. Its last word counts, and engines need one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ctclip_client.contract import CHECK
from ctclip_client.errors import CTClipError
from ctclip_client.json_fields import TEXT, TEXT_BY_NAME, TEXTS, TRUTH, complaint
from ctclip_client.placing import placed
from ctclip_server.releases.digest import sha256
from ctclip_server.releases.members import Members

FILE = "ladder.json"
PLAN = "model.plan"
_KINDS = {"release": TEXT, "passed": TRUTH, "failures": TEXTS, "plans": TEXT_BY_NAME}
_OPTIONAL = frozenset({"failures", "plans"})


class LadderRefusedError(CTClipError):
    """The ladder failed, or was not climbed with the engines that would serve. Exit code 1."""


@dataclass(frozen=True)
class LadderRecord:
    """release: its name. failures: rung and reason of each rung that failed, in words.

    plans: SHA-256 of every engine that a rung was run on, and passed, by model.
    """

    release: str
    passed: bool
    failures: Sequence[str] = ()
    plans: Mapping[str, str] = field(default_factory=dict)

    def write(self, repository: Path, version: str) -> None:
        """Keep it beside the release, whole or not at all. Raises: OSError."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        with placed(repository / CHECK.name / version / FILE) as file:
            file.write(text.encode())


def check_ladder(members: Members, version: int, release: str) -> None:
    """Refuse a release whose ladder failed, and engines that no ladder was climbed with.

    Raises: LadderRefusedError naming the rung, the engine, or what is damaged.
    """
    record = read_ladder(members.repository, version)
    if record is not None and record.release == release and not record.passed:
        raise LadderRefusedError(
            f"release: version {version} failed its ladder: {'; '.join(record.failures)}.",
            "Only a release whose ladder has passed may serve. Export it anew, or in a higher "
            "precision, and climb again: ctclip parity.",
        )
    known = record.plans if record is not None and record.release == release else {}
    for model in members.steps:
        plan = members.repository / model / str(version) / PLAN
        if plan.is_file() and known.get(model) != sha256(plan):
            raise LadderRefusedError(
                f"release: the engine of '{model}' version {version} was never compared with the "
                "reference.",
                "Climb the ladder with it, on the GPU it was built for: make gpu-check.",
            )


def plans_of(repository: Path, version: str) -> dict[str, str]:
    """SHA-256 of every engine of one version, by model."""
    return {
        plan.parent.parent.name: sha256(plan) for plan in repository.glob(f"*/{version}/{PLAN}")
    }


def read_ladder(repository: Path, version: int | str) -> LadderRecord | None:
    """What is kept beside a version, None if nothing is.

    Raises: LadderRefusedError naming the field, what it holds and what it should.
    """
    path = repository / CHECK.name / str(version) / FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"it cannot be read as JSON ({type(error).__name__})") from error
    if wrong := complaint(content, _KINDS, optional=_OPTIONAL):
        raise _damaged(path, wrong)
    if unknown := sorted(set(content) - set(_KINDS)):
        raise _damaged(path, f"{unknown[0]}: nothing is known of such a field")
    return LadderRecord(**content)


def _damaged(path: Path, why: str) -> LadderRefusedError:
    return LadderRefusedError(
        f"release: {path} is damaged: {why}. Nobody knows what it said.",
        "Climb the ladder again: ctclip parity --repository DIR.",
    )
