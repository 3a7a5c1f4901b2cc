"""An ONNX file's format versions, read without the `onnx` package and without its weights.

Imports the standard library only: Triton's Python processes import it, too.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MAXIMUM_IR_VERSION = 13
MAXIMUM_OPSET = 26
"""What ONNX Runtime 1.28 of the production container (Triton 26.08) knows: ONNX 1.21. Another ONNX
Runtime may be newer, and would load what production then refuses."""

_IR_VERSION, _OPSET_IMPORT = 1, 8  # field numbers of onnx.proto
_DOMAIN, _VERSION = 1, 2
_STANDARD_DOMAINS = ("", "ai.onnx")

_Value = int | tuple[int, int]
"""What a field of a protobuf message holds: a number, or where its bytes begin and end."""


@dataclass(frozen=True)
class Versions:
    """ir_version, and operator sets: domain -> version."""

    ir_version: int
    opsets: Mapping[str, int]

    @property
    def opset(self) -> int:
        """Of ONNX's own operators."""
        return max(self.opsets.get(domain, 0) for domain in _STANDARD_DOMAINS)

    def unknown_to_production(self) -> str:
        """Why production's ONNX Runtime would not load such a file; "" if it would."""
        if self.ir_version <= MAXIMUM_IR_VERSION and self.opset <= MAXIMUM_OPSET:
            return ""
        return (
            f"IR {self.ir_version}, opset {self.opset}: production's ONNX Runtime 1.28 knows up to "
            f"IR {MAXIMUM_IR_VERSION}, opset {MAXIMUM_OPSET}"
        )


def read_versions(path: Path) -> Versions:
    """Read the versions of an ONNX file; large fields are stepped over.

    Raises:
        ValueError: the file is no ModelProto.
        OSError: it cannot be read.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _versions(data)


def _versions(data: mmap.mmap) -> Versions:
    """The versions that a serialized ModelProto states. Raises: ValueError."""
    ir_version, opsets = 0, {}
    for field, value in _fields(data, 0, len(data)):
        if field == _IR_VERSION and isinstance(value, int):
            ir_version = value
        elif field == _OPSET_IMPORT and isinstance(value, tuple):
            entry = dict(_fields(data, *value))
            version = entry.get(_VERSION, 0)
            opsets[_string(data, entry.get(_DOMAIN))] = version if isinstance(version, int) else 0
    if not ir_version or not opsets:
        raise ValueError("it has no IR version or no operator set: not an ONNX model")
    return Versions(ir_version, opsets)


def _string(data: mmap.mmap, bounds: _Value | None) -> str:
    """The text of a field; "" where it is missing."""
    return data[bounds[0] : bounds[1]].decode("utf-8") if isinstance(bounds, tuple) else ""


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, _Value]]:
    """(field number, value) pairs of one protobuf message. Raises: ValueError."""
    position = start
    while position < end:
        key, position = _varint(data, position, end)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _varint(data, position, end)
            yield key >> 3, value
            continue
        if wire_type == 2:
            length, position = _varint(data, position, end)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError("it is not a protobuf message")
        if position + length > end:
            raise ValueError("it is truncated")
        yield key >> 3, (position, position + length)
        position += length


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("it is truncated")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise ValueError("it is not a protobuf message")
