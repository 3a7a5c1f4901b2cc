"""Triton's messages, made and read without any input or output.

A request is put together here rather than by tritonclient's `InferInput`: that one holds a volume
three times before it is sent (bytes, message, serialised message). Here it is the message alone,
and while it is made a contiguous copy of voxels that are not.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from ctclip_client.contract import Tensor
from ctclip_client.errors import InvalidInput, ServerError
from ctclip_client.transport.endpoint import LARGEST_MESSAGE_BYTES
from ctclip_client.transport.shared_memory import Region

_NUMPY_TYPES = {
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_RAW_INPUT_CONTENTS = 7  # field number in ModelInferRequest
_LENGTH_DELIMITED = 2  # protobuf's wire type of bytes
_SIZE = struct.Struct("<I")
_NOT_OURS = "Is this Triton serving a repository of this release? Ask who runs it."


@dataclass(frozen=True, eq=False)
class Input:
    """One tensor of a request: an array, or the region of shared memory that will hold it."""

    tensor: Tensor
    array: NDArray[np.generic]
    region: Region | None = None


def strings(texts: Sequence[str]) -> NDArray[np.object_]:
    """Texts as an array of UTF-8 bytes.

    Raises:
        InvalidInput: a text that has no UTF-8 form (lone surrogates).
    """
    encoded = np.empty(len(texts), object)
    for index, text in enumerate(texts):
        try:
            encoded[index] = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"text {index}: cannot be written as UTF-8 ({error.reason}).",
                "Decode it with the right encoding first.",
            ) from error
    return encoded


def infer_request(
    model: str, inputs: Sequence[Input], outputs: Sequence[Tensor], request_id: str = ""
) -> bytes:
    """Serialise a ModelInferRequest. request_id: Triton's own `id`, by which its log names it.

    Raises:
        InvalidInput: larger than gRPC can carry.
    """
    message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for item in inputs:
        entry = message.inputs.add(name=item.tensor.name, datatype=item.tensor.dtype)
        entry.shape.extend(item.array.shape)
        if item.region is not None:
            entry.parameters["shared_memory_region"].string_param = item.region.name
            entry.parameters["shared_memory_byte_size"].int64_param = item.region.nbytes
    for tensor in outputs:
        message.outputs.add(name=tensor.name)
    head = message.SerializeToString()
    # Before anything is copied: what is too large for gRPC may be too large for memory, too.
    _check_size(len(head) + sum(item.array.nbytes for item in inputs if item.region is None))
    # Concatenated serialised fields are a serialised message, so no message ever holds the voxels.
    parts: list[bytes | memoryview] = [head]
    for item in inputs:
        if item.region is None:
            raw = _raw(item.tensor, item.array)
            parts += [_prefix(_RAW_INPUT_CONTENTS, len(raw)), raw]
    _check_size(sum(len(part) for part in parts))
    return b"".join(parts)


def _check_size(nbytes: int) -> None:
    if nbytes > LARGEST_MESSAGE_BYTES:
        raise InvalidInput(
            f"The request has {nbytes:,} bytes, gRPC carries at most {LARGEST_MESSAGE_BYTES:,}.",
            "Run the client on the server's machine, where shared memory has no such limit, or "
            "crop the scan to the chest.",
        )


def infer_response(
    answer: bytes, outputs: Sequence[Tensor], sizes: Mapping[str, int]
) -> dict[str, NDArray[np.generic]]:
    """Read a ModelInferResponse: arrays by tensor name, BYTES as arrays of `bytes`.

    Args:
        answer: the serialised message.
        outputs: what the contract promises.
        sizes: free axes whose size the request has fixed; the others have to agree with each other.

    Raises:
        ServerError: names, types, shapes or lengths differ, or a value is NaN or infinite.
    """
    try:
        message = service_pb2.ModelInferResponse.FromString(answer)
    except DecodeError as error:
        raise ServerError("The answer is no ModelInferResponse.", _NOT_OURS) from error
    bound = dict(sizes)
    positions = {entry.name: index for index, entry in enumerate(message.outputs)}
    arrays = {}
    for tensor in outputs:
        index = positions.get(tensor.name)
        if index is None or index >= len(message.raw_output_contents):
            raise ServerError(
                f"{tensor.name}: missing in the answer of {message.model_name}, which holds "
                f"{sorted(positions)}.",
                _NOT_OURS,
            )
        entry = message.outputs[index]
        shape = tuple(entry.shape)
        if entry.datatype != tensor.dtype or not _matches(shape, tensor, bound):
            raise ServerError(
                f"{tensor.name}: got {entry.datatype} {list(shape)}, expected {tensor.dtype} "
                f"{list(tensor.shape(bound))} (-1: any size).",
                _NOT_OURS,
            )
        arrays[tensor.name] = _array(tensor, shape, message.raw_output_contents[index])
    return arrays


def _matches(shape: tuple[int, ...], tensor: Tensor, bound: dict[str, int]) -> bool:
    if len(shape) != len(tensor.dims):
        return False
    for size, dim in zip(shape, tensor.dims, strict=True):
        expected = dim if isinstance(dim, int) else bound.setdefault(dim, size)
        if size != expected or size < 1:
            return False
    return True


def _array(tensor: Tensor, shape: tuple[int, ...], raw: bytes) -> NDArray[np.generic]:
    if tensor.dtype == "BYTES":
        return _unpacked(tensor, shape, raw)
    dtype = np.dtype(_NUMPY_TYPES[tensor.dtype])
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ServerError(
            f"{tensor.name}: {len(raw)} bytes do not fill {tensor.dtype} {list(shape)}.", _NOT_OURS
        )
    # A copy: arrays on the message's memory would be read-only.
    array = np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ServerError(
            f"{tensor.name}: the answer holds NaN or infinity.",
            "The model is broken for this scan; check it with ctclip doctor and ctclip parity.",
        )
    return array


def _unpacked(tensor: Tensor, shape: tuple[int, ...], raw: bytes) -> NDArray[np.generic]:
    texts, start = [], 0
    while start + _SIZE.size <= len(raw):
        (length,) = _SIZE.unpack_from(raw, start)
        start += _SIZE.size
        texts.append(raw[start : start + length])
        start += length
    if start != len(raw) or len(texts) != math.prod(shape):
        raise ServerError(f"{tensor.name}: damaged text in the answer.", _NOT_OURS)
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)


def _raw(tensor: Tensor, array: NDArray[np.generic]) -> memoryview:
    if tensor.dtype == "BYTES":
        packed = b"".join(_SIZE.pack(len(text)) + text for text in array.reshape(-1).tolist())
        return memoryview(packed)
    contiguous = np.ascontiguousarray(array, _NUMPY_TYPES[tensor.dtype])
    return contiguous.reshape(-1).view(np.uint8).data


def _prefix(field: int, length: int) -> bytes:
    """Key and length of a length-delimited field, as base-128 varints."""
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
