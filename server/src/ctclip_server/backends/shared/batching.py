"""Requests joined into one batch and taken apart again, as the C++ backend does it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.generic]]


def can_be_joined(requests: Sequence[Tensors]) -> bool:
    """Whether all requests have the same inputs, equal in all axes but the first."""
    first = requests[0]
    return all(
        request.keys() == first.keys()
        and all(
            tensor.ndim == first[name].ndim and tensor.shape[1:] == first[name].shape[1:]
            for name, tensor in request.items()
        )
        for request in requests[1:]
    )


def join(requests: Sequence[Tensors]) -> Tensors:
    """One batch of all requests, in order; a single request is not copied."""
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


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
