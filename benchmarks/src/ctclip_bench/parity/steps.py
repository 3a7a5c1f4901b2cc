"""The steps: each computes, in its own way, what the reference computes, scan by scan."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctclip_bench.parity.inputs import NoVerdict, ParityInputs
from ctclip_bench.parity.prepared_scans import PreparedScan
from ctclip_bench.parity.step_process import reason_of
from ctclip_client import InvalidInput, read_volume
from ctclip_client.contract import (
    CHECK,
    FINDINGS,
    GPU_GRAPH,
    PREPROCESS,
    TEXT_ENCODER,
    TOKENIZER,
    VISION,
    VOXELS,
    Model,
)
from ctclip_client.transport.connection import Connection
from ctclip_export.checkpoint import load_checkpoint, read_text_model
from ctclip_export.engines.gpu import DRIVERS_ORDER
from ctclip_export.engines.run import EngineVision, checked_engine
from ctclip_export.graphs.run import run_onnx
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.check_fp32 import VOXELS_BOUND
from ctclip_export.parity.compare import compare
from ctclip_export.parity.judge import StepAnswer
from ctclip_export.parity.providers import CUDA, Providers, open_session, run_session
from ctclip_export.parity.reference import answer_in_pytorch
from ctclip_export.parity.runtimes import (
    OnnxRuntimeVision,
    OpenVINOVision,
    VisionRuntime,
    run_text_onnx,
    run_text_openvino,
)
from ctclip_export.precision.choices import precision_of
from ctclip_export.precision.typed_twin import typed
from ctclip_export.text.tokens import Ids, tokenised
from ctclip_server.releases.control import Control

Scans = Sequence[PreparedScan]
Answers = Iterator[StepAnswer]
EncodeText = Callable[[Ids, Ids], NDArray[np.float32]]
"""Token ids and mask (N, L) -> embeddings (N, E)."""


def pytorch(inputs: ParityInputs, scans: Scans) -> Answers:
    """The reference, float32, with its own preprocessing."""
    return _pytorch(inputs, scans, "fp32")


def pytorch_typed(inputs: ParityInputs, scans: Scans) -> Answers:
    """The typed twin of the reference."""
    return _pytorch(inputs, scans, inputs.release.precision)


def _pytorch(inputs: ParityInputs, scans: Scans, precision: str) -> Answers:
    try:
        yield from _in_pytorch(inputs, scans, precision)
    except Exception as error:  # whatever it is: the release has no part in it
        raise NoVerdict(
            f"PyTorch's answer cannot be computed: {reason_of(error)}",
            "Are --against and --text-model those of the export? Nothing was judged.",
        ) from error


@torch.no_grad()
def _in_pytorch(inputs: ParityInputs, scans: Scans, precision: str) -> Answers:
    if inputs.checkpoint is None or inputs.text_model is None:
        raise InvalidInput("the reference needs --against and --text-model.")
    text_model = read_text_model(inputs.text_model)
    geometry = inputs.release.geometry
    model = load_checkpoint(inputs.checkpoint, text_model, geometry).model
    vocabulary = text_model.vocabulary_bytes.decode("utf-8")
    ids, mask = (torch.from_numpy(array) for array in tokenised(inputs.sentences, vocabulary))
    vision, text = model.vision, model.text
    if precision != "fp32":
        vision, text = typed(vision, precision), typed(text, precision)
    bank = text(ids, mask)
    for scan in scans:
        volume = scan.volume()
        voxels = preprocess(volume.voxels, volume.spacing_mm, volume.rescale, geometry)
        yield answer_in_pytorch(model, vision, bank, voxels)


def onnx_runtime(inputs: ParityInputs, scans: Scans) -> Answers:
    """The repository's graphs, one after the other, in ONNX Runtime on the CPU."""
    encode = partial(run_text_onnx, inputs.file(TEXT_ENCODER.name))
    return _graphs(inputs, scans, OnnxRuntimeVision(inputs.file(VISION.name)), encode)


def openvino(inputs: ParityInputs, scans: Scans) -> Answers:
    """Both encoders in OpenVINO on the CPU, the scores in ONNX Runtime as they are served."""
    encode = partial(run_text_openvino, inputs.file(TEXT_ENCODER.name))
    return _graphs(inputs, scans, OpenVINOVision(inputs.file(VISION.name)), encode)


def onnx_runtime_cuda(inputs: ParityInputs, scans: Scans, providers: Providers = CUDA) -> Answers:
    """The repository's graphs in ONNX Runtime on the GPU, preprocessing and scores among them.

    Volumes are prepared there, by the graph that is served there, and compared with those that the
    CPU prepared before they are used. providers: others than CUDA.
    """
    os.environ.update(DRIVERS_ORDER)
    special = inputs.file(PREPROCESS.name, GPU_GRAPH)
    prepare = open_session(
        special if special.is_file() else inputs.file(PREPROCESS.name), providers
    )
    text = open_session(inputs.file(TEXT_ENCODER.name), providers)
    findings = open_session(inputs.file(FINDINGS.name), providers)

    def voxels(scan: PreparedScan) -> NDArray[np.float32]:
        got = run_session(prepare, scan.volume().tensors())
        compare(PREPROCESS.name, got, {VOXELS.name: scan.voxels()}, {VOXELS.name: VOXELS_BOUND})
        return np.asarray(got[VOXELS.name], np.float32)

    def encode(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        outputs = run_session(text, {"INPUT_IDS": ids, "ATTENTION_MASK": mask})
        return np.asarray(outputs["TEXT_EMBEDDING"], np.float32)

    vision = OnnxRuntimeVision(inputs.file(VISION.name), providers)
    return _graphs(
        inputs, scans, vision, encode, voxels=voxels, score=partial(run_session, findings)
    )


def engine(inputs: ParityInputs, scans: Scans) -> Answers:
    """Both plans in TensorRT on the GPU, the scores in ONNX Runtime as they are served."""
    # The GPU that was asked about and compiled on; CUDA, when it starts, may number others first.
    os.environ.update(DRIVERS_ORDER)
    precision = inputs.release.precision
    text = checked_engine(
        TEXT_ENCODER, inputs.file(TEXT_ENCODER.name), precision_of(TEXT_ENCODER, precision)
    )

    def encode(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        outputs = text.run({"INPUT_IDS": ids, "ATTENTION_MASK": mask})
        embedding: NDArray[np.float32] = outputs["TEXT_EMBEDDING"]
        return embedding

    return _graphs(inputs, scans, EngineVision(inputs.file(VISION.name), precision), encode)


def _graphs(
    inputs: ParityInputs,
    scans: Scans,
    vision: VisionRuntime,
    encode: EncodeText,
    *,
    voxels: Callable[[PreparedScan], NDArray[np.float32]] = PreparedScan.voxels,
    score: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]] | None = None,
) -> Answers:
    score = score or partial(run_onnx, inputs.file(FINDINGS.name))
    vocabulary = inputs.file(TOKENIZER.name, "vocab.txt").read_text(encoding="utf-8")
    ids, mask = tokenised(inputs.sentences, vocabulary)
    size = TEXT_ENCODER.max_batch_size
    starts = range(0, len(ids), size)
    bank = np.concatenate([encode(ids[at : at + size], mask[at : at + size]) for at in starts])
    for scan in scans:
        outputs, tokens = vision.run(voxels(scan))
        scores = score({"IMAGE_EMBEDDING": outputs["IMAGE_EMBEDDING"]})
        yield StepAnswer.of({**outputs, **scores}, bank, tokens.numpy())


def served(inputs: ParityInputs, scans: Scans) -> Answers:
    """The release's models inside a real Triton, asked one by one over gRPC."""
    with Control(_connection(inputs)) as control:
        versions = _releases(control)
        _check_release(inputs, list(versions))

        def ask(model: Model, **tensors: NDArray[Any]) -> dict[str, NDArray[Any]]:
            return control.infer(model.name, versions[inputs.release.name], tensors)

        size = TEXT_ENCODER.max_batch_size
        pieces = []
        for start in range(0, len(inputs.sentences), size):
            some = [sentence.encode() for sentence in inputs.sentences[start : start + size]]
            tokens = ask(TOKENIZER, TEXT=np.array(some, np.object_))
            pieces.append(ask(TEXT_ENCODER, **tokens)["TEXT_EMBEDDING"])
        bank = np.concatenate(pieces)
        for scan in scans:
            vision = ask(VISION, VOXELS=scan.voxels())
            scores = ask(FINDINGS, IMAGE_EMBEDDING=vision["IMAGE_EMBEDDING"])
            yield StepAnswer.of({**vision, **scores}, bank)


def _connection(inputs: ParityInputs) -> Connection:
    if inputs.connection is None:
        raise InvalidInput("the steps that are served need a server.")
    return inputs.connection


def from_file(inputs: ParityInputs, scans: Scans) -> Answers:
    """The whole way: CT file, reader, client, ensemble. Codes stay inside the server."""
    with (
        _connection(inputs).client() as client,
        tempfile.TemporaryDirectory(prefix="ctclip-parity-", ignore_cleanup_errors=True) as folder,
    ):
        bank = client.encode_text(inputs.sentences)
        for scan in scans:
            path = scan.scan.as_file(Path(folder), scan.volume())
            scores = client.pathologies(read_volume(path))
            _check_release(inputs, [scores.provenance.release])
            yield StepAnswer.of_scores(scores, bank)


def check_server(inputs: ParityInputs) -> None:
    """Raises: NoVerdict where the server at --url has another release; a ServiceError."""
    with Control(_connection(inputs)) as control:
        _check_release(inputs, list(_releases(control)))


def _releases(control: Control) -> dict[str, int]:
    """Release -> its version at this server, which may count otherwise or have several."""
    return {
        str(control.provenance(CHECK.name, version).get("release")): version
        for version in control.versions(CHECK.name)
    }


def _check_release(inputs: ParityInputs, answering: Sequence[str]) -> None:
    """A server of another release would be judged in the name of this one."""
    if inputs.release.name not in answering:
        raise NoVerdict(
            f"the server answers for release {', '.join(answering)}, expected "
            f"{inputs.release.name}.",
            "Name the server that serves --repository.",
        )
