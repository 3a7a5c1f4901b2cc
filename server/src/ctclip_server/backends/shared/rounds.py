"""One scheduling round: requests in, a response for each, an error for each that is at fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.generic]]
Run = Callable[[list[str], Tensors], Tensors]
"""Names of the outputs wanted and the inputs -> the outputs. Raises: RefusedError."""

_KINDS = {"b": "BOOL", "i": "INT", "u": "UINT", "f": "FP"}
_SHOWN = 4
"""Values of a tensor that a message may hold."""


class RefusedError(Exception):
    """A request that got no answer; `invalid`: the request is at fault."""

    def __init__(self, message: str, *, invalid: bool) -> None:
        super().__init__(message)
        self.invalid = invalid


def answer(
    requests: Sequence[Any], feed: Callable[[Any], Tensors], run: Run, *, batched: bool
) -> list[Any]:
    """Answer all requests: in one run if the model is batched and their shapes allow it.

    Args:
        requests: Triton's requests.
        feed: takes the inputs out of a request. Raises RefusedError.
        run: executes the model.
        batched: whether the first axis of all tensors is the batch.
    """
    responses: list[Any] = [None] * len(requests)
    feeds: dict[int, Tensors] = {}
    for index, request in enumerate(requests):
        try:
            feeds[index] = feed(request)
        except RefusedError as error:
            responses[index] = _failure(error)
    wanted = {index: requests[index].requested_output_names() for index in feeds}
    joined = _joined(feeds, wanted, run) if batched and len(feeds) > 1 else {}
    for index, inputs in feeds.items():
        try:
            outputs = joined.get(index) or run(wanted[index], inputs)
            if batched:
                split(outputs, [_batch_size(inputs)])
            responses[index] = _success(outputs, wanted[index])
        except (RefusedError, ValueError) as error:
            responses[index] = _failure(error)
    return responses


def told(inputs: Tensors) -> str:
    """What came, for a message: names, types and shapes, and the values of the smallest tensors.

    The runtime says what it expected of one node, and seldom which input it was.
    """
    return "got " + ", ".join(_told(name, array) for name, array in inputs.items())


def _told(name: str, array: NDArray[Any]) -> str:
    kind = _KINDS[array.dtype.kind]
    dtype = "BOOL" if kind == "BOOL" else f"{kind}{array.dtype.itemsize * 8}"
    values = f" = {array.tolist()}" if 0 < array.size <= _SHOWN else ""
    return f"{name} {dtype} {list(array.shape)}{values}"


def _joined(
    feeds: dict[int, Tensors], wanted: dict[int, list[str]], run: Run
) -> dict[int, Tensors]:
    """The outputs of each request from one run of all; none if that cannot be, or failed."""
    together = list(feeds.values())
    if not can_be_joined(together):
        return {}
    batch = {name: np.concatenate([each[name] for each in together]) for name in together[0]}
    names = sorted({name for index in feeds for name in wanted[index]})
    try:
        parts = split(run(names, batch), [_batch_size(inputs) for inputs in together])
    except (RefusedError, ValueError):
        return {}  # one of them is bad: find out which, and answer the others
    return dict(zip(feeds, parts, strict=True))


def _batch_size(inputs: Tensors) -> int:
    return int(next(iter(inputs.values())).shape[0])


def can_be_joined(requests: Sequence[Tensors]) -> bool:
    """Whether all requests have the same inputs, equal in all axes but the first."""
    first, *others = (
        {name: tensor.shape[1:] for name, tensor in request.items()} for request in requests
    )
    return all(other == first for other in others)


def split(batch: Tensors, sizes: Sequence[int]) -> list[Tensors]:
    """Take a batch apart by its first axis; the parts are views.

    Raises:
        ValueError: an output's first axis is not the batch.
    """
    total = sum(sizes)
    for name, tensor in batch.items():
        if tensor.ndim == 0 or tensor.shape[0] != total:
            raise ValueError(
                f"output '{name}' has shape {list(tensor.shape)} for a batch of {total}: its "
                "first axis is not the batch"
            )
    ends = np.cumsum(sizes)
    return [
        {name: tensor[end - size : end] for name, tensor in batch.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


def _success(outputs: Tensors, wanted: list[str]) -> Any:
    import triton_python_backend_utils as pb_utils  # only Triton's Python stub has it

    return pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name]) for name in wanted])


def _failure(error: Exception) -> Any:
    import triton_python_backend_utils as pb_utils

    invalid = isinstance(error, RefusedError) and error.invalid
    code = pb_utils.TritonError.INVALID_ARG if invalid else pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
