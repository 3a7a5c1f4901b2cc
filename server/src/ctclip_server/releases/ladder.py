"""`ladder.json`: what `ctclip parity` said of a release, kept beside it. A failed one never serves.

The export's own comparisons, in every `provenance.json`, let a release in. The ladder goes further:
other scans, other runtimes, engines on the GPU. Its last word counts, unless it saw less than one
that failed, and engines need one: see `LadderRecord.after`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from ctclip_client.contract import CHECK
from ctclip_client.errors import CTClipError
from ctclip_client.release.digest import sha256
from ctclip_client.release.fields import TEXT, TEXT_BY_NAME, TEXTS, TRUTH, WHOLE, complaint
from ctclip_client.system.files import placed
from ctclip_server.releases.members import Members

FILE = "ladder.json"
PLAN = "model.plan"
_KINDS = {
    "release": TEXT,
    "passed": TRUTH,
    "failures": TEXTS,
    "failed": TEXTS,
    "ran": TEXTS,
    "plans": TEXT_BY_NAME,
    "failed_plans": TEXT_BY_NAME,
    "scans": WHOLE,
    "sample": TRUTH,
    "reference": TRUTH,
    "date": TEXT,
    "engines_date": TEXT,
}
_OPTIONAL = frozenset(_KINDS) - {"release", "passed"}


class LadderRefusedError(CTClipError):
    """The ladder failed, or was not climbed with the engines that would serve. Exit code 1."""


def _now() -> str:
    return datetime.now(UTC).isoformat()


@dataclass(frozen=True)
class LadderRecord:
    """release: its name. failures: rung and reason of each rung that failed, in words.

    failed, ran: names of the rungs that failed, and of all that ran, without a server's address;
        engines that failed are told by their files instead, see `failed_plans`.
    plans: SHA-256 of every engine that a rung was run on, and passed, by model.
    failed_plans: of those that it was run on, and failed.
    scans: how many were compared, 0 if that was not counted, or no rung could run.
    sample: whether they are the public chest CT and its variations, and no scans of one's own.
    reference: whether the rungs were compared with the checkpoint, not with its exported graphs.
    date: when it was climbed, in UTC; "" if unknown.
    engines_date: when it was last climbed on engines; "" if never, or unknown.
    """

    release: str
    passed: bool
    failures: Sequence[str] = ()
    failed: Sequence[str] = ()
    ran: Sequence[str] = ()
    plans: Mapping[str, str] = field(default_factory=dict)
    failed_plans: Mapping[str, str] = field(default_factory=dict)
    scans: int = 0
    sample: bool = False
    reference: bool = False
    date: str = field(default_factory=_now)
    engines_date: str = ""

    @property
    def has_own_scans(self) -> bool:
        """Whether scans were compared that are not the public ones."""
        return self.scans > 0 and not self.sample

    def after(
        self, earlier: LadderRecord | None, present: Mapping[str, str]
    ) -> tuple[LadderRecord, str]:
        """What to keep of this climb beside an earlier one; why the earlier verdict stays, or "".

        The last word counts, but a failure stays until a climb saw as much as the one that failed,
        and engines that passed have passed for as long as they lie there and fail no climb.

        Args:
            earlier: what was kept before.
            present: SHA-256 of the engines that lie there, by model.
        """
        if earlier is None or earlier.release != self.release:
            return self, ""
        still = {
            model: digest
            for model, digest in earlier.plans.items()
            if present.get(model) == digest != self.failed_plans.get(model)
        }
        engines_date = max(earlier.engines_date, self.engines_date)
        lacking = [] if earlier.passed else _lacking(self, earlier, present)
        if not lacking:
            plans = {**still, **self.plans}
            return replace(self, plans=plans, engines_date=engines_date), ""
        reason = (
            f"the release failed before, and that stays: {'; '.join(lacking)}. It is lifted by a "
            f"ladder that passes {earlier.conditions(present)}."
        )
        both = replace(
            earlier,
            failures=tuple(dict.fromkeys((*earlier.failures, *self.failures))),
            failed=tuple(dict.fromkeys((*earlier.failed, *self.failed))),
            ran=tuple(dict.fromkeys((*earlier.ran, *self.ran))),
            plans=still,
            failed_plans={**earlier.failed_plans, **self.failed_plans},
            scans=max(earlier.scans, self.scans),
            sample=not (earlier.has_own_scans or self.has_own_scans),
            reference=earlier.reference or self.reference,
            date=self.date,
            engines_date=engines_date,
        )
        return replace(earlier, plans=still) if self.passed else both, reason

    def conditions(self, present: Mapping[str, str]) -> str:
        """What a climb has to see, at least, to lift this failure."""
        own = " of your own (--scans DIR)" if self.has_own_scans else ""
        parts = [f"on at least {self.scans or 1} scans{own}"]
        if self.failed:
            parts.append(f"with {_quoted(self.failed)} among the rungs that run")
        if self.reference:
            parts.append("against the checkpoint (--against CHECKPOINT --text-model DIR)")
        if self.failed_there(present):
            parts.append("with the engines that lie there, or without engines in the repository")
        return ", ".join(parts)

    def failed_there(self, present: Mapping[str, str]) -> bool:
        """Whether engines that failed still lie there."""
        return any(present.get(model) == digest for model, digest in self.failed_plans.items())

    def write(self, repository: Path, version: str) -> None:
        """Keep it beside the release, whole or not at all. Raises: OSError."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        with placed(repository / CHECK.name / version / FILE) as file:
            file.write(text.encode())


def _lacking(later: LadderRecord, failed: LadderRecord, present: Mapping[str, str]) -> list[str]:
    """What a failure saw, and a later climb did not."""
    lacking = []
    if later.scans < failed.scans:
        lacking.append(f"it failed on {failed.scans} scans, this climb saw {later.scans}")
    if failed.has_own_scans and not later.has_own_scans:
        lacking.append("it failed on scans of your own, this climb saw the public CT only")
    if idle := [rung for rung in failed.failed if rung not in later.ran]:
        lacking.append(f"it failed in {_quoted(idle)}, which did not run in this climb")
    if failed.reference and not later.reference:
        lacking.append("it failed against the checkpoint, this climb began at its exported graphs")
    if failed.failed_there(present) and not (later.plans or later.failed_plans):
        lacking.append("its engines failed and lie there still, this climb ran none")
    return lacking


def _quoted(rungs: Sequence[str]) -> str:
    return ", ".join(f"'{rung}'" for rung in rungs)


def check_ladder(members: Members, version: int, release: str) -> None:
    """Refuse a release whose ladder failed, and engines that no ladder was climbed with.

    Raises: LadderRefusedError naming the rung, the engine, or what is damaged.
    """
    record = read_ladder(members.repository, version)
    if record is not None and record.release == release and not record.passed:
        conditions = record.conditions(plans_of(members.repository, str(version)))
        raise LadderRefusedError(
            f"release: version {version} failed its ladder: "
            f"{'; '.join(record.failures) or 'no rung of it could run'}.",
            "Only a release whose ladder has passed may serve. Export it anew, or in a higher "
            f"precision, and climb again: ctclip parity, {conditions}.",
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
    values = {"date": "", **content}
    if values.get("plans") or values.get("failed_plans"):
        values.setdefault("engines_date", values["date"])  # of before this field was kept
    return LadderRecord(**values)


def _damaged(path: Path, why: str) -> LadderRefusedError:
    return LadderRefusedError(
        f"release: {path} is damaged: {why}. Nobody knows what it said.",
        "Climb the ladder again: ctclip parity --repository DIR.",
    )
