"""Thresholds of findings from JSON files, as `ctclip evaluate --fit-thresholds` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.system.json_keys import unique_keys

KIND = "ctclip-thresholds"
VERSION = 1
_REMEDY = (
    "Expected the file that ctclip evaluate --fit-thresholds writes: "
    f'{{"kind": "{KIND}", "version": {VERSION}, "method": "youden", "thresholds": '
    '{"Cardiomegaly": 0.43, …}}.'
)


@dataclass(frozen=True)
class Thresholds:
    """Where "positive" begins: a probability of a finding's threshold or more.

    values: finding -> threshold in [0, 1]. method: how they were found, in a word. fitted_on: what
    the file says of the data that they were fitted on, empty where it says nothing.
    """

    values: Mapping[str, float]
    method: str
    fitted_on: Mapping[str, object] = field(default_factory=dict)

    def check_known(self, findings: Iterable[str]) -> None:
        """Refuse thresholds of other findings than these: they belong to another release.

        Raises: InvalidInput naming them.
        """
        known = tuple(findings)
        unknown = [repr(name) for name in self.values if name not in known]
        if unknown:
            raise InvalidInput(
                f"thresholds: got {', '.join(unknown)}, expected some of "
                f"{', '.join(map(repr, known))}.",
                "Give the thresholds that were fitted on answers of this release, with the same "
                "findings or prompts.",
            )

    def positive(self, finding: str, probability: float) -> bool | None:
        """Whether a probability reaches the finding's threshold; None where it has none."""
        threshold = self.values.get(finding)
        return None if threshold is None else probability >= threshold


def read_thresholds(path: Path) -> Thresholds:
    """Read a file of thresholds; keys other than those of the format are not looked at.

    Raises: Unreadable for a file that is no JSON, InvalidInput naming the value that is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}.", _REMEDY) from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path}: not JSON in UTF-8 ({error}).", _REMEDY) from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        got = content.get("kind") if isinstance(content, dict) else type(content).__name__
        raise _wrong(path, "kind", got, repr(KIND))
    version = content.get("version")
    if version != VERSION or isinstance(version, bool):
        raise _wrong(path, "version", version, str(VERSION))
    method = content.get("method")
    if not isinstance(method, str):
        raise _wrong(path, "method", method, "text")
    values = content.get("thresholds")
    if not isinstance(values, dict) or not values:
        raise _wrong(path, "thresholds", values, "an object with at least one finding")
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1:  # false for NaN, too
            raise _wrong(path, f"threshold of {name!r}", value, "a number from 0 to 1")
    fitted_on = content.get("fitted_on")
    return Thresholds(
        {name: float(value) for name, value in values.items()},
        method,
        fitted_on if isinstance(fitted_on, dict) else {},
    )


def _wrong(path: Path, field: str, got: object, expected: str) -> InvalidInput:
    return InvalidInput(f"{path}: {field}: got {got!r:.60}, expected {expected}.", _REMEDY)
