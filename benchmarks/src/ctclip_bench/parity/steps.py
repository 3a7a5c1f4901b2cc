"""The rungs. Each runs in a process of its own and writes one answer file for each scan."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype

from ctclip_client import Client, InvalidInput, read_volume
from ctclip_client.contract import (
    CHECK,
    FINDINGS,
    PREPROCESS,
    TEXT_ENCODER,
    TOKENIZER,
    VISION,
    Finding,
    Geometry,
)
from ctclip_export.checkpoint import load_checkpoint, read_text_model
from ctclip_export.engines.gpu import DRIVERS_ORDER
from ctclip_export.engines.run import EngineVision, checked_engine
from ctclip_export.graphs.run import run_onnx, run_preprocess
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.runtimes import (
    OnnxRuntimeVision,
    OpenVINOVision,
    VisionRuntime,
    run_text_onnx,
    run_text_openvino,
)
from ctclip_export.precision.choices import precision_of
from ctclip_export.precision.typed_twin import typed
from ctclip_export.samples.scans import Scan
from ctclip_export.text.tokens import Ids, tokenised
from ctclip_server.embedded.server import EmbeddedTriton
from ctclip_server.releases.control import Control

Answer = dict[str, NDArray[Any]]
"""codes, image_embedding, logits, probabilities; tokens (N, W) of unit length where visible;
text_embedding (2F, E) of the bank's sentences."""
_TIMEOUT_S = 600.0

EncodeText = Callable[[Ids, Ids], NDArray[np.float32]]
"""Token ids and mask (N, L) -> embeddings (N, E)."""


@dataclass(frozen=True)
class Job:
    """What every rung needs to know; plain values, so that it can cross into another process.

    url: a server that runs already; None = the embedded one, with `config_name`'s configs.
    """

    repository: Path
    version: str
    release: str
    geometry: Geometry
    precision: str
    prompts: tuple[Finding, ...]
    scans: tuple[Scan, ...]
    checkpoint: Path | None
    text_model: Path | None
    url: str | None = None
    config_name: str | None = None

    @property
    def sentences(self) -> list[str]:
        """The bank: present, absent, present, absent, …"""
        return [text for prompt in self.prompts for text in (prompt.present, prompt.absent)]

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
    vocabulary = text_model.vocabulary_bytes.decode("utf-8")
    ids, mask = (torch.from_numpy(array) for array in tokenised(job.sentences, vocabulary))
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
                "text_embedding": bank.numpy(),
            }
        )


def onnx_runtime(job: Job, emit: Callable[[Answer], None]) -> None:
    """The repository's graphs, one after the other, in ONNX Runtime on the CPU."""

    def encode(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        return run_text_onnx(job.file(TEXT_ENCODER.name), ids, mask)

    _graphs(job, OnnxRuntimeVision(job.file(VISION.name)), encode, emit)


def openvino(job: Job, emit: Callable[[Answer], None]) -> None:
    """Both encoders in OpenVINO on the CPU, the scores in ONNX Runtime as they are served."""

    def encode(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        return run_text_openvino(job.file(TEXT_ENCODER.name), ids, mask)

    _graphs(job, OpenVINOVision(job.file(VISION.name)), encode, emit)


def engine(job: Job, emit: Callable[[Answer], None]) -> None:
    """Both plans in TensorRT on the GPU, the scores in ONNX Runtime as they are served."""
    # The GPU that was asked about and compiled on; CUDA, when it starts, may number others first.
    os.environ.update(DRIVERS_ORDER)
    text = checked_engine(
        TEXT_ENCODER, job.file(TEXT_ENCODER.name), precision_of(TEXT_ENCODER, job.precision)
    )

    def encode(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        outputs = text.run({"INPUT_IDS": ids, "ATTENTION_MASK": mask})
        embedding: NDArray[np.float32] = outputs["TEXT_EMBEDDING"]
        return embedding

    _graphs(job, EngineVision(job.file(VISION.name), job.precision), encode, emit)


def _graphs(
    job: Job, vision: VisionRuntime, encode: EncodeText, emit: Callable[[Answer], None]
) -> None:
    vocabulary = job.file(TOKENIZER.name, "vocab.txt").read_text(encoding="utf-8")
    ids, mask = tokenised(job.sentences, vocabulary)
    size = TEXT_ENCODER.max_batch_size
    starts = range(0, len(ids), size)
    bank = np.concatenate([encode(ids[at : at + size], mask[at : at + size]) for at in starts])
    for scan in job.scans:
        outputs, tokens = vision.run(_voxels(job, scan))
        scores = run_onnx(job.file(FINDINGS.name), {"IMAGE_EMBEDDING": outputs["IMAGE_EMBEDDING"]})
        emit(_answer({**outputs, **scores}, bank) | {"tokens": tokens.numpy()})


def served(job: Job, emit: Callable[[Answer], None]) -> None:
    """The release's models inside a real Triton, asked one by one over gRPC."""
    with _server(job) as url:
        version = _served_version(job, url)
        client = triton.InferenceServerClient(url)

        def ask(model: str, **inputs: NDArray[Any]) -> Answer:
            return _infer(client, model, version, inputs)

        try:
            bank = _served_bank(job, ask)
            for scan in job.scans:
                vision = ask(VISION.name, VOXELS=_voxels(job, scan))
                scores = ask(FINDINGS.name, IMAGE_EMBEDDING=vision["IMAGE_EMBEDDING"])
                emit(_answer({**vision, **scores}, bank))
        finally:
            client.close()


def _served_version(job: Job, url: str) -> str:
    """The version by which a server knows the release: it may count otherwise, or have several."""
    with Control(url, load_timeout_s=_TIMEOUT_S) as control:
        found = {
            str(control.provenance(CHECK.name, version).get("release")): version
            for version in control.versions(CHECK.name)
        }
    _check_release(job, list(found))
    return str(found[job.release])


def _served_bank(job: Job, ask: Callable[..., Answer]) -> NDArray[np.float32]:
    """Embeddings (2F, E) of the bank's sentences, by tokenizer and encoder of one release."""
    size = TEXT_ENCODER.max_batch_size
    pieces = []
    for start in range(0, len(job.sentences), size):
        some = [sentence.encode() for sentence in job.sentences[start : start + size]]
        tokens = ask(TOKENIZER.name, TEXT=np.array(some, np.object_))
        pieces.append(ask(TEXT_ENCODER.name, **tokens)["TEXT_EMBEDDING"])
    return np.concatenate(pieces)


def from_file(job: Job, emit: Callable[[Answer], None]) -> None:
    """The whole way: CT file, reader, client, ensemble. Codes stay inside the server."""
    with (
        _server(job) as url,
        Client(url, timeout_s=_TIMEOUT_S) as client,
        tempfile.TemporaryDirectory(prefix="ctclip-parity-") as folder,
    ):
        bank = client.encode_text(job.sentences)
        for scan in job.scans:
            scores = client.pathologies(read_volume(scan.as_file(Path(folder))))
            _check_release(job, [scores.provenance.release])
            emit(
                {
                    "image_embedding": scores.image_embedding,
                    "logits": scores.logits,
                    "probabilities": scores.probabilities,
                    "text_embedding": bank,
                }
            )


@contextmanager
def _server(job: Job) -> Iterator[str]:
    """Address of the server to ask: the given one, or an embedded one for as long as it takes."""
    if job.url is not None:
        yield job.url
        return
    with EmbeddedTriton(job.repository, config_name=job.config_name) as server:
        yield server.grpc_url


def _check_release(job: Job, answering: Sequence[str]) -> None:
    """A server of another release would be judged in the name of this one."""
    if job.release not in answering:
        raise InvalidInput(
            f"the server answers for release {', '.join(answering)}, expected {job.release}.",
            "Name the server that serves --repository.",
        )


def _voxels(job: Job, scan: Scan) -> NDArray[np.float32]:
    return run_preprocess(job.file(PREPROCESS.name), scan.volume())


def _infer(
    client: triton.InferenceServerClient,
    model: str,
    version: str,
    inputs: Mapping[str, NDArray[Any]],
) -> Answer:
    tensors = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    result = client.infer(model, tensors, version)
    names = [output.name for output in result.get_response().outputs]
    return {output: result.as_numpy(output) for output in names}


def _answer(outputs: Answer, bank: NDArray[np.float32]) -> Answer:
    return {
        "codes": outputs["CODES"][0],
        "image_embedding": outputs["IMAGE_EMBEDDING"][0],
        "logits": outputs["LOGITS"][0],
        "probabilities": outputs["PROBABILITIES"][0],
        "text_embedding": bank,
    }
