"""The rungs. Each runs in a process of its own and writes one answer file for each scan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tritonclient.grpc as triton
from numpy.typing import NDArray

from ctclip_bench.ladder.scans import Scan
from ctclip_client import Client, InvalidInput, read_volume
from ctclip_client.contract import FINDINGS, MAX_TOKENS, VISION, Finding, Geometry
from ctclip_export.checkpoint import load_checkpoint, read_text_model
from ctclip_export.model.precision import typed
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.readings import VisionGraph
from ctclip_export.repository.python_models.ctclip_tokenizer.word_pieces import bert_tokenizer
from ctclip_export.runtime import run_onnx
from ctclip_server.embedded import EmbeddedTriton

Answer = dict[str, NDArray[Any]]
"""codes, image_embedding, logits, probabilities; tokens (N, W) of unit length where visible."""


@dataclass(frozen=True)
class Job:
    """What every rung needs to know; plain values, so that it can cross into another process."""

    repository: Path
    version: str
    geometry: Geometry
    precision: str
    prompts: tuple[Finding, ...]
    scans: tuple[Scan, ...]
    checkpoint: Path | None
    text_model: Path | None

    def file(self, model: str, name: str = "model.onnx") -> Path:
        return self.repository / model / self.version / name


def pytorch(job: Job, emit: Callable[[Answer], None]) -> None:
    """The reference, float32; also says how similar each token's best two codes are."""
    _pytorch(job, "fp32", emit)


def pytorch_typed(job: Job, emit: Callable[[Answer], None]) -> None:
    """The typed twin of the reference."""
    _pytorch(job, job.precision, emit)


@torch.no_grad()
def _pytorch(job: Job, precision: str, emit: Callable[[Answer], None]) -> None:
    if job.checkpoint is None or job.text_model is None:
        raise InvalidInput("the reference needs --against and --text-model.")
    text_model = read_text_model(job.text_model)
    model = load_checkpoint(job.checkpoint, text_model, job.geometry).model
    tokenizer = bert_tokenizer(text_model.vocabulary_bytes.decode("utf-8"), MAX_TOKENS)
    encodings = tokenizer.encode_batch([t for p in job.prompts for t in (p.present, p.absent)])
    ids = torch.tensor([encoding.ids for encoding in encodings])
    mask = torch.tensor([encoding.attention_mask for encoding in encodings])
    vision, text = model.vision, model.text
    if precision != "fp32":
        vision, text = typed(vision, precision), typed(text, precision)
    bank = text(ids, mask)
    for scan in job.scans:
        volume = scan.volume()
        voxels = preprocess(volume.voxels, volume.spacing_mm, volume.rescale, job.geometry)
        stages = vision.stages(voxels)
        tokens = vision.to_grid(stages.temporal_tokens).flatten(0, 3)
        logits, probabilities = model.score(stages.embedding, bank)
        emit(
            {
                "codes": stages.codes[0].numpy(),
                "image_embedding": stages.embedding[0].numpy(),
                "logits": logits[0].numpy(),
                "probabilities": probabilities[0].numpy(),
                "tokens": torch.nn.functional.normalize(tokens, dim=-1).numpy(),
            }
        )


def onnx_runtime(job: Job, emit: Callable[[Answer], None]) -> None:
    """The repository's graphs, one after the other, in ONNX Runtime on the CPU."""
    graph = VisionGraph(job.file(VISION.name))
    for scan in job.scans:
        outputs, tokens = graph.run(_voxels(job, scan))
        scores = run_onnx(job.file(FINDINGS.name), {"IMAGE_EMBEDDING": outputs["IMAGE_EMBEDDING"]})
        emit(_answer({**outputs, **scores}) | {"tokens": tokens.numpy()})


def served(job: Job, emit: Callable[[Answer], None]) -> None:
    """The models inside a real Triton, asked one by one over gRPC."""
    with EmbeddedTriton(job.repository) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        try:
            for scan in job.scans:
                vision = _infer(client, VISION.name, "VOXELS", _voxels(job, scan))
                scores = _infer(client, FINDINGS.name, "IMAGE_EMBEDDING", vision["IMAGE_EMBEDDING"])
                emit(_answer({**vision, **scores}))
        finally:
            client.close()


def from_file(job: Job, emit: Callable[[Answer], None]) -> None:
    """The whole way: CT file, reader, client, ensemble. Codes stay inside the server."""
    with (
        EmbeddedTriton(job.repository) as server,
        Client(server.grpc_url, timeout_s=600) as client,
        tempfile.TemporaryDirectory(prefix="ctclip-parity-") as folder,
    ):
        for scan in job.scans:
            scores = client.pathologies(read_volume(scan.as_file(Path(folder))))
            emit(
                {
                    "image_embedding": scores.image_embedding,
                    "logits": scores.logits,
                    "probabilities": scores.probabilities,
                }
            )


def _voxels(job: Job, scan: Scan) -> NDArray[np.float32]:
    volume = scan.volume()
    outputs = run_onnx(
        job.file("ctclip_preprocess"),
        {
            "VOLUME": np.ascontiguousarray(volume.voxels),
            "SPACING": np.array(volume.spacing_mm, np.float64),
            "RESCALE": np.array(volume.rescale, np.float32),
        },
    )
    voxels: NDArray[np.float32] = outputs["VOXELS"]
    return voxels


def _infer(
    client: triton.InferenceServerClient, model: str, name: str, array: NDArray[np.float32]
) -> Answer:
    tensor = triton.InferInput(name, list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    result = client.infer(model, [tensor])
    names = [output.name for output in result.get_response().outputs]
    return {output: result.as_numpy(output) for output in names}


def _answer(outputs: Answer) -> Answer:
    return {
        "codes": outputs["CODES"][0],
        "image_embedding": outputs["IMAGE_EMBEDDING"][0],
        "logits": outputs["LOGITS"][0],
        "probabilities": outputs["PROBABILITIES"][0],
    }
