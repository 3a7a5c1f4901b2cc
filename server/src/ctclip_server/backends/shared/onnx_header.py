"""Reads an ONNX file's format versions without the `onnx` package and without its weights."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

MAXIMUM_IR_VERSION = 13
MAXIMUM_OPSET = 26
"""What ONNX Runtime 1.28 of the production container (Triton 26.08) knows: ONNX 1.21. The ONNX
Runtime here may be newer, and would load what production then refuses."""

_IR_VERSION_FIELD = 1
_OPSET_FIELD = 8
_DOMAIN_FIELD = 1
_VERSION_FIELD = 2
_DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Header:
    """IR version and operator-set versions (domain -> version) of an ONNX file."""

    ir_version: int
    opsets: dict[str, int]


def read_header(path: Path) -> Header:
    """Read the header of a serialized ModelProto; large fields are stepped over, not read.

    Raises:
        ValueError: the file is not a ModelProto.
        OSError: the file cannot be read.
    """
    ir_version = 0
    opsets: dict[str, int] = {}
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for field, value in _fields(data, 0, len(data)):
            if field == _IR_VERSION_FIELD and isinstance(value, int):
                ir_version = value
            elif field == _OPSET_FIELD and isinstance(value, tuple):
                domain, version = "", 0
                for inner, content in _fields(data, *value):
                    if inner == _DOMAIN_FIELD and isinstance(content, tuple):
                        domain = data[content[0] : content[1]].decode("utf-8")
                    elif inner == _VERSION_FIELD and isinstance(content, int):
                        version = content
                opsets[domain] = version
    if not ir_version or not opsets:
        raise ValueError("it has no IR version or no operator set: not an ONNX model")
    return Header(ir_version, opsets)


def refusal(header: Header) -> str | None:
    """Why production's ONNX Runtime would not load such a file; None if it would."""
    if header.ir_version > MAXIMUM_IR_VERSION:
        return (
            f"Unsupported model IR version: {header.ir_version}, production's ONNX Runtime 1.28 "
            f"knows up to {MAXIMUM_IR_VERSION}"
        )
    for domain, version in header.opsets.items():
        if domain in _DEFAULT_DOMAINS and version > MAXIMUM_OPSET:
            return (
                f"opset {version} of ai.onnx is newer than production's ONNX Runtime 1.28 knows "
                f"(up to {MAXIMUM_OPSET})"
            )
    return None


def _fields(data: mmap.mmap, start: int, end: int) -> list[tuple[int, int | tuple[int, int]]]:
    """(field number, value) pairs of one protobuf message: a number, or the bounds of its bytes."""
    found: list[tuple[int, int | tuple[int, int]]] = []
    position = start
    while position < end:
        key, position = _varint(data, position, end)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _varint(data, position, end)
            found.append((key >> 3, value))
            continue
        if wire_type == 2:
            length, position = _varint(data, position, end)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError("it is not a protobuf message")
        if position + length > end:
            raise ValueError("it is truncated")
        found.append((key >> 3, (position, position + length)))
        position += length
    return found


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
