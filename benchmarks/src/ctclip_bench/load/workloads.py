"""What is asked of the server: whole scans, batches of the vision model, texts."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from ctclip_bench.load.agreement import JudgedAnswers, difference, embedding_difference
from ctclip_bench.load.load import Workload
from ctclip_bench.load.server import Raw, Server, shared_region
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_client import Scores, Volume
from ctclip_client.contract import PREPROCESS, VISION, VOXELS
from ctclip_export.graphs.run import run_preprocess


def whole_path(
    server: Server, volumes: Sequence[Volume], agreement: JudgedAnswers
) -> Workload[Scores]:
    """Volume in memory → client → ensemble → findings. Scans take turns."""

    @contextmanager
    def connect() -> Iterator[Callable[[int], Scores]]:
        with server.client() as client:
            yield lambda number: client.pathologies(volumes[number % len(volumes)])

    def inspect(number: int, scores: Scores) -> str:
        return difference(agreement.bounds, scores, agreement.served[number % len(volumes)])

    return Workload(connect, inspect, lambda scores: scores.timings_ms)


def texts(
    server: Server, inputs: ParityInputs, count: int, agreement: JudgedAnswers
) -> Workload[NDArray[np.float32]]:
    """Sentences → tokenizer → text encoder: the bank's prompts, as often as it takes."""
    bank = inputs.sentences
    sentences = [bank[number % len(bank)] for number in range(count)]
    known = agreement.text_embeddings
    expected = None if known is None else known[np.arange(count) % len(bank)]

    @contextmanager
    def connect() -> Iterator[Callable[[int], NDArray[np.float32]]]:
        with server.client() as client:
            yield lambda _: client.encode_text(sentences)

    def inspect(_: int, embeddings: NDArray[np.float32]) -> str:
        if expected is None:
            return "the texts' embeddings were never judged"
        return embedding_difference(agreement.bounds, embeddings, expected)

    return Workload(connect, inspect)


def prepared(inputs: ParityInputs, volumes: Sequence[Volume]) -> NDArray[np.float32]:
    """VOXELS (S, 1, D, H, W) of scans, by the repository's own preprocessing."""
    path = inputs.file(PREPROCESS.name)
    return np.concatenate([run_preprocess(path, volume) for volume in volumes])


def split(batch: int, largest: int) -> list[int]:
    """Sizes of the requests that carry a batch: as few as the model's limit allows."""
    full, rest = divmod(batch, largest)
    return [largest] * full + ([rest] if rest else [])


class VisionBatches:
    """The vision model alone, with prepared volumes that lie ready in the request.

    transport: how they travel; without shared memory their 221 MB each (at the published geometry)
    are part of the latency.
    """

    def __init__(self, raw: Raw, voxels: NDArray[np.float32], region: str) -> None:
        """voxels: (B, 1, D, H, W), as many as the largest request holds. region: of shared memory
        where they lie, "" if there is none.
        """
        self.transport = "shared_memory" if region else "grpc"
        self._raw = raw
        self._voxels = voxels
        self._region = region
        self._outputs = [triton.InferRequestedOutput(tensor.name) for tensor in VISION.outputs]

    def work(
        self, sizes: Sequence[int], expected: NDArray[np.float32], agreement: JudgedAnswers
    ) -> Workload[list[NDArray[np.float32]]]:
        """One "request" is all of `sizes` sent at once; it is over with the last answer.

        expected: (B, E), the judged embeddings of `voxels`.
        """
        tensors = {size: self._tensor(size) for size in set(sizes)}

        def ask(_: int) -> list[NDArray[np.float32]]:
            answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
            for size in sizes:
                self._raw.ask(
                    self._raw.connection.async_infer,
                    VISION.name,
                    [tensors[size]],
                    lambda result, error: answers.put((result, error)),
                    outputs=self._outputs,
                    client_timeout=self._raw.server.timeout_s,
                )
            embeddings = []
            for _ in sizes:
                result, error = answers.get()
                if error is not None:
                    raise self._raw.translated(error)
                embeddings.append(result.as_numpy("IMAGE_EMBEDDING"))
            return embeddings

        @contextmanager
        def connect() -> Iterator[Callable[[int], list[NDArray[np.float32]]]]:
            yield ask

        def inspect(_: int, embeddings: list[NDArray[np.float32]]) -> str:
            if sorted(len(part) for part in embeddings) != sorted(sizes):
                return f"answers for {[len(part) for part in embeddings]} of {list(sizes)} volumes"
            found = (
                embedding_difference(agreement.bounds, part, expected[: len(part)])
                for part in embeddings
            )
            return next((text for text in found if text), "")

        return Workload(connect, inspect)

    def _tensor(self, size: int) -> triton.InferInput:
        part = self._voxels[:size]
        tensor = triton.InferInput(VOXELS.name, list(part.shape), VOXELS.dtype)
        if self._region:
            tensor.set_shared_memory(self._region, part.nbytes)
        else:
            tensor.set_data_from_numpy(part)
        return tensor


@contextmanager
def vision_batches(server: Server, voxels: NDArray[np.float32]) -> Iterator[VisionBatches]:
    """Place VOXELS (B, 1, D, H, W) where the server can see them, if it is on this machine."""
    with Raw(server) as raw, shared_region(raw, voxels) as region:
        yield VisionBatches(raw, voxels, region)
