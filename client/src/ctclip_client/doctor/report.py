"""A report: what was examined, and an ordered list of checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

FORMAT = 1
"""Version of the JSON form; raised whenever a key changes its meaning or goes."""
HEALTH_CHECK = "canary"
"""What scripts find the health check by in the JSON form; people read "health check"."""


class Verdict(StrEnum):
    """What came of a check. NOT RUN is never a pass: the detail says what kept it from running."""

    PASS = "PASS"  # noqa: S105 (a verdict, no password)
    WARN = "WARN"
    FAIL = "FAIL"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    name: what was checked; about: of which part ("ctclip_vision/1"), empty for the whole. The two
        together occur once in a report, so that a script can find the check again.
    detail: one sentence of what was seen. remedy: what to do about it, for anything but a PASS.
    values: the same as data; units stand in the keys.
    """

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""
    about: str = ""
    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The check's name and part, for a person."""
        name = "health check" if self.name == HEALTH_CHECK else self.name
        return f"{name} {self.about}".strip()


def passed(name: str, detail: str, about: str = "", /, **values: object) -> Check:
    """Make a check that found nothing wrong."""
    return Check(name, Verdict.PASS, detail, about=about, values=values)


def warned(name: str, detail: str, remedy: str, about: str = "", /, **values: object) -> Check:
    """Make a check whose finding a person should know about, although nothing is broken."""
    return Check(name, Verdict.WARN, detail, remedy, about, values)


def failed(name: str, detail: str, remedy: str, about: str = "", /, **values: object) -> Check:
    """Make a check that found something that must not be used as it is."""
    return Check(name, Verdict.FAIL, detail, remedy, about, values)


def judged(
    name: str, problems: Sequence[str], fine: str, remedy: str, about: str = "", /, **values: object
) -> Check:
    """Make a check that fails with its problems, or passes with the sentence `fine`."""
    if problems:
        return failed(name, "; ".join(problems), remedy, about, **values)
    return passed(name, fine, about, **values)


def of_weights(
    name: str, detail: str, values: Mapping[str, object], *, random_weights: bool
) -> Check:
    """Make the check of a release's origin: a warning where nothing was ever trained."""
    values = {**values, "random_weights": random_weights}
    if random_weights:
        told = f"RANDOM WEIGHTS: {detail}; its results mean nothing"
        return warned(name, told, "For demonstrations only.", **values)
    return passed(name, detail, **values)


def not_run(name: str, why: str, remedy: str = "", about: str = "") -> Check:
    """Make a check that could not be carried out."""
    return Check(name, Verdict.NOT_RUN, why, remedy, about)


@dataclass(frozen=True)
class Report:
    """kind: "checkpoint", "repository", "ct" or "server". target: as the user gave it.

    recognised_as: what the target was taken for, and by what sign.
    """

    kind: str
    target: str
    recognised_as: str
    checks: Sequence[Check]

    @property
    def verdict(self) -> Verdict:
        """FAIL if any check failed, else WARN if any warned, else PASS.

        Checks that did not run change nothing: they are counted beside it.
        """
        verdicts = {check.verdict for check in self.checks}
        return next((v for v in (Verdict.FAIL, Verdict.WARN) if v in verdicts), Verdict.PASS)

    def counts(self) -> dict[str, int]:
        """Return how many checks ended with each verdict."""
        return {v.value: sum(check.verdict is v for check in self.checks) for v in Verdict}

    def to_json(self) -> dict[str, object]:
        """Return the JSON form.

        Keys: `format` (int), `kind`, `target`, `recognised_as`, `verdict`, `counts` (verdict ->
        int) and `checks`, a list of {`name`, `about`, `verdict`, `detail`, `remedy`, `values`}.
        `values` holds numbers as numbers and what is not a number (NaN) as null; its keys belong
        to the check's name. New keys may be added without a new `format`.
        """
        return {
            "format": FORMAT,
            "kind": self.kind,
            "target": self.target,
            "recognised_as": self.recognised_as,
            "verdict": self.verdict.value,
            "counts": self.counts(),
            "checks": [
                {
                    "name": check.name,
                    "about": check.about,
                    "verdict": check.verdict.value,
                    "detail": check.detail,
                    "remedy": check.remedy,
                    "values": _plain(dict(check.values)),
                }
                for check in self.checks
            ],
        }


def _plain(value: Any) -> Any:
    """Copy a value for JSON, which has neither tuples nor NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
