"""Prompt banks from JSON files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ctclip_client.contract import Finding
from ctclip_client.errors import InvalidInput, Unreadable

_REMEDY = 'Expected JSON: [{"finding": "…", "present": "…", "absent": "…"}, …].'
_KEYS = ("finding", "present", "absent")


def read_prompts(path: Path) -> tuple[Finding, ...]:
    """Read a bank of prompts: names, sentences for and sentences against.

    Raises: Unreadable for a file that is no JSON, InvalidInput naming the entry that is wrong.
    """
    try:
        content = json.loads(
            path.read_text(encoding="utf-8-sig"),  # Notepad marks it
            object_pairs_hook=_object,
        )
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}.", _REMEDY) from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path}: not JSON in UTF-8 ({error}).", _REMEDY) from error
    if not isinstance(content, list) or not content:
        raise InvalidInput(f"{path}: expected a list with at least one finding.", _REMEDY)
    bank = tuple(_entry(path, index, entry) for index, entry in enumerate(content))
    names = [entry.finding for entry in bank]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InvalidInput(f"{path}: finding '{double}' is a duplicate.", _REMEDY)
    return bank


def _entry(path: Path, index: int, entry: object) -> Finding:
    if isinstance(entry, _Doubled):
        raise InvalidInput(
            f"{path}: entry {index}: got '{entry.key}' {len(entry.values)} times "
            f"({', '.join(map(repr, entry.values))}), expected it once.",
            _REMEDY,
        )
    if not isinstance(entry, dict) or set(entry) != set(_KEYS):
        got = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise InvalidInput(f"{path}: entry {index} has {got}, expected {list(_KEYS)}.", _REMEDY)
    for key in _KEYS:
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise InvalidInput(
                f"{path}: entry {index}: '{key}' is {entry[key]!r}, expected text.", _REMEDY
            )
        if any("\ud800" <= letter <= "\udfff" for letter in entry[key]):
            raise InvalidInput(
                f"{path}: entry {index}: '{key}' is {entry[key]!a}, half a character that "
                "UTF-8 cannot write.",
                _REMEDY,
            )
    if entry["present"].split() == entry["absent"].split():
        raise InvalidInput(
            f"{path}: entry {index}: 'absent' is {entry['absent']!r}, the same as 'present', "
            "expected another sentence: between two that are the same every scan gets 0.5.",
            _REMEDY,
        )
    return Finding(**entry)


@dataclass(frozen=True)
class _Doubled:
    """An object with the same key more than once: which of its values is meant is unknown."""

    key: str
    values: list[object]


def _object(pairs: list[tuple[str, object]]) -> dict[str, object] | _Doubled:
    content = dict(pairs)
    if len(content) == len(pairs):
        return content
    ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
    return _Doubled(key, [value for name, value in pairs if name == key])
