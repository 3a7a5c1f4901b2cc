"""The versions that a `config.pbtxt` states, read and changed; the rest of it stays as it is."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.repository import read_config
from ctclip_client.system.files import placed

_POLICY = re.compile(r"^[ \t]*version_policy\s*:?\s*\{", re.MULTILINE)
_PIN = re.compile(r"^(\s*model_version\s*:\s*)-?\d+", re.MULTILINE)


def stated_versions(config: Any) -> tuple[int, ...] | None:
    """Versions that a model config asks for, None unless it lists them."""
    policy = config.version_policy
    if policy.WhichOneof("policy_choice") != "specific":
        return None
    return tuple(sorted(policy.specific.versions))


def with_versions(path: Path, versions: Collection[int], pin: int | None = None) -> str:
    """The text of a config that serves `versions`, and as an ensemble pins its steps to `pin`.

    Comments, order and everything else of the file at `path` are kept.

    Raises:
        Unreadable: the file is missing or damaged.
        InvalidInput: it is written in a way that cannot be changed without touching the rest.
    """
    before = read_config(path)
    text = _read(path)
    line = (
        f"version_policy {{ specific {{ versions: [{', '.join(map(str, sorted(versions)))}] }} }}"
    )
    if match := _POLICY.search(text):
        text = text[: match.start()] + line + text[_closing(text, match.end()) :]
    else:
        text = f"{text.rstrip()}\n{line}\n"
    if pin is not None:
        text = _PIN.sub(rf"\g<1>{pin}", text)
    if not _is_change_of_versions_only(before, text, versions, pin):
        raise InvalidInput(
            f"{path}: its versions cannot be changed without touching the rest.",
            "State version_policy, and model_version of each step, on lines of their own.",
        )
    return text


def replace(path: Path, text: str) -> None:
    """Put `text` into a file at once: a crash leaves the old content or the new.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    try:
        mode = path.stat().st_mode
        with placed(path) as file:
            file.write(text.encode("utf-8"))
            os.fchmod(file.fileno(), stat.S_IMODE(mode))
    except OSError as error:
        raise InvalidInput(
            f"repository: cannot write {path}: {error.strerror}.",
            "Run this where the repository may be written.",
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}.") from error


def _closing(text: str, start: int) -> int:
    """The end of the block whose opening brace stands before `start`."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    return len(text)


def _is_change_of_versions_only(
    before: Any, text: str, versions: Collection[int], pin: int | None
) -> bool:
    from google.protobuf import text_format  # type: ignore[import-untyped]

    expected = type(before)()
    expected.CopyFrom(before)
    expected.version_policy.Clear()
    expected.version_policy.specific.versions.extend(sorted(versions))
    if pin is not None:
        for step in expected.ensemble_scheduling.step:
            step.model_version = pin
    try:
        after = text_format.Parse(text, type(before)(), allow_unknown_field=True)
    except text_format.ParseError:
        return False
    return bool(after == expected)
