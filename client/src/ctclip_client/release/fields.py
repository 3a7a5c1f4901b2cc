"""What is wrong with JSON that came from a file: the field, what stands there, what should."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_SHOWN = 60


@dataclass(frozen=True)
class Kind:
    """What a field may hold, as a test and in words."""

    holds: Callable[[Any], bool]
    words: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


TEXT = Kind(lambda value: isinstance(value, str), "text")
TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
WHOLE = Kind(lambda value: _is_whole(value) and value >= 0, "a whole number")
OBJECT = Kind(lambda value: isinstance(value, dict), "an object")
TEXTS = Kind(
    lambda value: isinstance(value, list) and all(map(TEXT.holds, value)), "a list of texts"
)
TEXT_BY_NAME = Kind(
    lambda value: isinstance(value, dict) and all(map(TEXT.holds, value.values())),
    "an object of texts",
)
THREE_WHOLE = Kind(
    lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_whole, value)),
    "three whole numbers",
)
THREE_NUMBERS = Kind(
    lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)),
    "three numbers",
)


def complaint(
    content: object, kinds: Mapping[str, Kind], *, optional: frozenset[str] = frozenset()
) -> str:
    """The first thing that is wrong with an object's fields, in words; "" if nothing is.

    Fields that `kinds` does not name are not looked at; `optional` ones may be missing.
    """
    if not isinstance(content, dict):
        return f"got {_shown(content)}, expected an object"
    for name, kind in kinds.items():
        if name not in content:
            if name not in optional:
                return f"{name}: it is missing, expected {kind.words}"
        elif not kind.holds(content[name]):
            return f"{name}: got {_shown(content[name])}, expected {kind.words}"
    return ""


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
