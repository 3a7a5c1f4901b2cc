"""Prompt banks from JSON files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ctclip_client.contract import Finding
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.system.json_keys import unique_keys

_REMEDY = 'Expected JSON: [{"finding": "…", "present": "…", "absent": "…"}, …].'
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
_KEYS = ("finding", "present", "absent")


def sentences(bank: Iterable[Finding]) -> list[str]:
    """A bank's texts in the order of the contract: present, absent, present, absent, …"""
    return [text for entry in bank for text in (entry.present, entry.absent)]


def read_prompts(path: Path) -> tuple[Finding, ...]:
    """Read a bank of prompts: names, sentences for and sentences against.

    Raises: Unreadable for a file that is no JSON, InvalidInput naming the entry that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Notepad marks it
        content = json.loads(text, object_pairs_hook=unique_keys)
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
    if not isinstance(entry, dict) or set(entry) != set(_KEYS):
        got = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise InvalidInput(f"{path}: entry {index} has {got}, expected {list(_KEYS)}.", _REMEDY)
    for key in _KEYS:
        text = entry[key]
        if not isinstance(text, str) or not text.strip() or _HALF_A_CHARACTER.search(text):
            raise InvalidInput(
                f"{path}: entry {index}: '{key}' is {text!a}, expected text that UTF-8 can write.",
                _REMEDY,
            )
    check_differ(f"{path}: entry {index}", entry["present"], entry["absent"])
    return Finding(**entry)


def check_differ(where: str, present: str, absent: str) -> None:
    """Refuse two sentences that are one, but for blanks and capitals. where: what an error names.

    Raises: InvalidInput.
    """
    if present.casefold().split() == absent.casefold().split():
        raise InvalidInput(
            f"{where}: 'absent' is {absent!r}, the same as 'present', expected another sentence: "
            "between two that are the same every scan gets 0.5.",
            "Say in one of them that the finding is there, and in the other that it is not.",
        )
