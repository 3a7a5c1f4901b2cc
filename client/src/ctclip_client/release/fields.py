"""JSON out of a file of a repository; what is wrong with it: the field, got and expected."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctclip_client.errors import Unreadable

EXPORT_AGAIN = "Export the repository again (ctclip export)."
_SHOWN = 60
_LARGEST_BYTES = 64 << 20


@dataclass(frozen=True)
class Kind:
    """What a field may hold, as a test and in words."""

    holds: Callable[[Any], bool]
    words: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


TEXT = Kind(lambda value: isinstance(value, str), "text")
TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
WHOLE = Kind(lambda value: _is_whole(value) and value >= 0, "a whole number")
NUMBER = Kind(_is_number, "a finite number")
OBJECT = Kind(lambda value: isinstance(value, dict), "an object")
TEXTS = Kind(
    lambda value: isinstance(value, list) and all(map(TEXT.holds, value)), "a list of texts"
)
LIST = Kind(lambda value: isinstance(value, list), "a list")
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
    content: object,
    kinds: Mapping[str, Kind],
    *,
    optional: frozenset[str] = frozenset(),
    inside: str = "",
) -> str:
    """The first thing that is wrong with an object's fields, in words; "" if nothing is.

    Fields that `kinds` does not name are not looked at; `optional` ones may be missing. inside: the
    name of the field that holds the object.
    """
    if not isinstance(content, dict):
        return f"{inside}{': ' if inside else ''}got {_shown(content)}, expected an object"
    prefix = f"{inside}." if inside else ""
    for name, kind in kinds.items():
        if name not in content:
            if name not in optional:
                return f"{prefix}{name}: it is missing, expected {kind.words}"
        elif not kind.holds(content[name]):
            return f"{prefix}{name}: got {_shown(content[name])}, expected {kind.words}"
    return ""


def read_json(path: Path, remedy: str = EXPORT_AGAIN) -> Any:
    """What a small JSON file holds. Raises: Unreadable."""
    try:
        return json.loads(read_bytes(path, remedy))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path}: not JSON ({error}).", remedy) from error


def read_bytes(path: Path, remedy: str = EXPORT_AGAIN) -> bytes:
    """A small file whole. Raises: Unreadable if it is missing, no regular file, or far too large
    for text."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            state = "not a file" if path.exists() else "missing"
            raise Unreadable(f"{path}: {state}.", remedy)
        if path.stat().st_size > _LARGEST_BYTES:
            raise Unreadable(f"{path}: {path.stat().st_size:,} bytes of text.", remedy)
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}.", remedy) from error


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
