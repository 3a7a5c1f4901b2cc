"""JSON out of a file of a repository, as the dataclass that it should be.

A dataclass says by its type hints what an object holds. What is wrong names the field, what is
there and what should be; fields that the dataclass does not have are not looked at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from itertools import repeat
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ctclip_client.errors import Unreadable

EXPORT_AGAIN = "Export the repository again (ctclip export)."
_SHOWN = 60
_LARGEST_BYTES = 64 << 20
_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number"}


T = TypeVar("T")


class WrongFieldError(ValueError):
    """Field, got and expected, in words."""


def parse(kind: type[T], value: Any, field: str = "") -> T:
    """`value` as a dataclass. field: what it is the content of.

    Fields may be str, bool, int (0 or more), finite float, dataclasses, lists, tuples and mappings
    of such, and `| None`. One with a default may be missing.

    Raises: WrongFieldError.
    """
    parsed: T = _parse(kind, value, field)
    return parsed


def _parse(kind: Any, value: Any, field: str) -> Any:
    if is_dataclass(kind):
        return _object(kind, value, field)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (tuple, list):
        several = origin is list or arguments[-1] is ...
        if not isinstance(value, list) or not (several or len(value) == len(arguments)):
            raise _wrong(field, value, "a list" if several else f"a list of {len(arguments)}")
        kinds = repeat(arguments[0]) if several else arguments
        return origin(
            _parse(each, entry, f"{field}[{index}]")
            for index, (each, entry) in enumerate(zip(kinds, value, strict=False))
        )
    if origin in (Mapping, dict):
        if not isinstance(value, dict):
            raise _wrong(field, value, "an object")
        return {name: _parse(arguments[1], each, f"{field}.{name}") for name, each in value.items()}
    if origin is UnionType:  # X | None
        (other,) = set(arguments) - {NoneType}
        return None if value is None else _parse(other, value, field)
    if kind is not Any and not _is(kind, value):
        raise _wrong(field, value, _WORDS[kind])
    return value


def _object(kind: Any, value: Any, field: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(field, value, "an object")
    hints, found = get_type_hints(kind), {}
    for each in fields(kind):
        inner = f"{field}.{each.name}" if field else each.name
        if each.name in value:
            found[each.name] = _parse(hints[each.name], value[each.name], inner)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise WrongFieldError(f"{inner}: it is missing")
    return kind(**found)


def _is(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        # Compared, not converted: a whole number in JSON may be beyond every float.
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return isinstance(value, kind) and not (isinstance(value, int) and value < 0)


def _wrong(field: str, value: object, expected: str) -> WrongFieldError:
    text = json.dumps(value, ensure_ascii=False)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return WrongFieldError(f"{field}{': ' if field else ''}got {shown}, expected {expected}")


def read_record(kind: type[T], path: Path, remedy: str = EXPORT_AGAIN) -> T:
    """A small JSON file as a dataclass. Raises: Unreadable."""
    try:
        return parse(kind, read_json(path, remedy))
    except WrongFieldError as error:
        raise damaged(path, str(error), remedy) from error


def damaged(path: Path, wrong: str, remedy: str = EXPORT_AGAIN) -> Unreadable:
    """The error of a file whose content is not what it should be."""
    return Unreadable(f"{path} is damaged: {wrong}.", remedy)


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
