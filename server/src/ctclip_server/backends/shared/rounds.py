"""One scheduling round, as Triton's C++ backends have it: one run, and a response for each request.

A run that fails fails every request in it, whoever's they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.generic]]
Run = Callable[[list[str], Tensors], Tensors]
"""Names of the outputs wanted and the inputs -> the outputs. Raises: RefusedError."""


class RefusedError(Exception):
    """A request that got no answer; `invalid`: the request is at fault."""

    def __init__(self, message: str, *, invalid: bool = False) -> None:
        super().__init__(message)
        self.invalid = invalid


def answer(
    requests: Sequence[Any], feed: Callable[[Any], Tensors], run: Run, *, batched: bool
) -> list[Any]:
    """Answer all requests: those that can be fed in one run if the model is batched.

    Args:
        requests: Triton's requests. Of a batched model they have the same inputs, equal in all axes
            but the first: Triton joins no others unless the config asks for ragged batches.
        feed: takes the inputs out of a request. Raises RefusedError, for this request alone.
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
    for indices in [list(feeds)] if batched and feeds else [[index] for index in feeds]:
        names = sorted({name for index in indices for name in wanted[index]})
        try:
            parts = _run([feeds[index] for index in indices], names, run, batched=batched)
            for index, outputs in zip(indices, parts, strict=True):
                responses[index] = _success(outputs, wanted[index])
        except RefusedError as error:
            for index in indices:
                responses[index] = _failure(error)
    return responses


def _run(feeds: list[Tensors], names: list[str], run: Run, *, batched: bool) -> list[Tensors]:
    """The outputs of each request from one run of all."""
    together = feeds[0]
    if len(feeds) > 1:
        together = {name: np.concatenate([each[name] for each in feeds]) for name in together}
    outputs = run(names, together)
    if not batched:
        return [outputs]
    return split(outputs, [len(next(iter(inputs.values()))) for inputs in feeds])


def split(batch: Tensors, sizes: Sequence[int]) -> list[Tensors]:
    """Take a batch apart by its first axis; the parts are views.

    Raises:
        RefusedError: an output's first axis is not the batch.
    """
    total = sum(sizes)
    for name, tensor in batch.items():
        if tensor.ndim == 0 or tensor.shape[0] != total:
            raise RefusedError(
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


def _failure(error: RefusedError) -> Any:
    import triton_python_backend_utils as pb_utils

    code = pb_utils.TritonError.INVALID_ARG if error.invalid else pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
