"""What graphs are measured with: real volumes, prepared once, and what the reference answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ctclip_bench.graphs.torch_runner import Function
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_client import Volume
from ctclip_client.contract import (
    CLASSFINE,
    FINDINGS,
    RELEVANCE,
    SCORE,
    TEXT_ENCODER,
    TOKENIZER,
    VISION,
    Model,
)
from ctclip_client.system.progress import Stages
from ctclip_export.checkpoint import Checkpoint, load_checkpoint, read_text_model
from ctclip_export.model import CTCLIP
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.judge import StepAnswer
from ctclip_export.parity.reference import answer_in_pytorch
from ctclip_export.parity.runtimes import cpu_runtime
from ctclip_export.precision.choices import precision_of
from ctclip_export.text.tokens import Ids, tokenised

Array = NDArray[np.float32]
_Scans = tuple[tuple[Volume, ...], tuple[Array, ...]]
"""Volumes, and VOXELS of each."""


@dataclass(frozen=True)
class Heads:
    """scale: exp(temperature). bank: (2F, E), length 1. weights: (N, W, F) and codebook: (Z, W), of
    relevance maps. classifier: weight (C, E) and bias (C,) of ClassFine, and mean (E,) of a linear
    head, or nothing.
    """

    scale: float
    bank: Tensor
    weights: Tensor
    codebook: Tensor
    classifier: tuple[Tensor, ...] = ()

    def function(self, word: str, device: str = "cpu") -> Function:
        """Of "score", "findings", "relevance" or "classfine": tensors in the order of the graph's
        inputs -> its outputs in theirs.
        """
        bank, weights, codebook, *classifier = (
            each.to(device) for each in (self.bank, self.weights, self.codebook, *self.classifier)
        )

        def score(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:  # (V, E), (2P, E)
            logits = (images @ texts.T * self.scale).reshape(len(images), -1, 2)  # (V, P, 2)
            return logits, logits.softmax(dim=-1)[..., 0]

        def findings(images: Tensor) -> tuple[Tensor, Tensor]:
            return score(images, bank)

        def relevance(codes: Tensor, norm: Tensor) -> Tensor:  # (V, T, R, C), (V, 1)
            tokens = codebook[codes.flatten(2)]  # (V, T, N, W)
            shares = tokens.transpose(1, 2) @ weights  # (V, N, T, F)
            maps = shares.permute(0, 3, 2, 1) / norm[:, :, None, None]  # (V, F, T, N)
            return maps.reshape(*maps.shape[:3], *codes.shape[2:])

        def classfine(images: Tensor) -> Tensor:
            weight, bias, *mean = classifier
            seen = images - mean[0] if mean else torch.relu(images)
            return torch.sigmoid(seen @ weight.T + bias)

        functions: dict[str, Function] = {
            "score": score, "findings": findings, "relevance": relevance, "classfine": classfine,
        }  # fmt: skip
        return functions[word]

    def scores(self, images: Array, texts: Array | None = None) -> dict[str, Array]:
        """LOGITS (V, P, 2) and PROBABILITIES (V, P) of images (V, E) and texts (2P, E), by default
        the bank; both of length 1.
        """
        chosen = self.bank if texts is None else torch.tensor(texts)
        logits, probabilities = self.function("score")(torch.tensor(images), chosen)
        return {"LOGITS": logits.numpy(), "PROBABILITIES": probabilities.numpy()}


@dataclass(frozen=True)
class Subject:
    """A release, volumes, and what the reference makes of them.

    against: the reference in words. voxels: VOXELS (1, 1, D, H, W) of each volume. answers and
    norms (1, 1) of each. ids, mask: (2F, L) of the bank's sentences. heads: what follows the
    encoders, by the reference; served: by constants as they are in the repository, whose bank a
    low-precision text encoder has made. codebook: unit codes (W, Z). model: the reference, None
    without --against.
    """

    inputs: ParityInputs
    against: str
    volumes: tuple[Volume, ...]
    voxels: tuple[NDArray[np.float32], ...]
    answers: tuple[StepAnswer, ...]
    norms: tuple[NDArray[np.float32], ...]
    ids: Ids
    mask: Ids
    heads: Heads
    served: Heads
    codebook: torch.Tensor
    model: CTCLIP | None


def read_subject(inputs: ParityInputs, stages: Stages) -> Subject:
    """Read the volumes and compute the reference: PyTorch where `inputs` names a checkpoint, else
    what runs the repository's own graphs on a CPU.

    Raises: Unreadable, InvalidInput.
    """
    geometry = inputs.release.geometry
    with stages.stage("Scans: read and prepare"):
        volumes = tuple(scan.volume() for scan in inputs.scans)
        voxels = tuple(
            preprocess(each.voxels, each.spacing_mm, each.rescale, geometry).numpy()
            for each in volumes
        )
    if inputs.checkpoint is None or inputs.text_model is None:
        return _by_graphs(inputs, (volumes, voxels), stages)
    with stages.stage("Checkpoint: read"):
        text_model = read_text_model(inputs.text_model)
        loaded = load_checkpoint(inputs.checkpoint, text_model, geometry)
    tokens = tokenised(inputs.sentences, text_model.vocabulary_bytes.decode("utf-8"))
    return _by_checkpoint(inputs, loaded, tokens, (volumes, voxels), stages)


@torch.no_grad()
def _by_checkpoint(
    inputs: ParityInputs, loaded: Checkpoint, tokens: tuple[Ids, Ids], scans: _Scans, stages: Stages
) -> Subject:
    model, head = loaded.model.eval(), loaded.classifier
    found = []
    with stages.stage("Reference: PyTorch", len(scans[1])) as advance:
        bank = model.text(*map(torch.from_numpy, tokens))
        for each in scans[1]:
            answer = answer_in_pytorch(model, model.vision, bank, torch.from_numpy(each))
            codes = torch.from_numpy(answer.codes)[None]
            _, norm = model.vision.project(F.embedding(codes, model.vision.codebook))
            found.append((answer, norm.numpy()))
            advance(1)
    answers, norms = zip(*found, strict=True)
    heads = Heads(
        float(model.temperature.exp()), bank,
        model.relevance_weights(bank).transpose(1, 2).contiguous(),  # (N, W, F)
        model.vision.codebook.detach(),
        # The repository's may have come from a checkpoint of its own.
        tuple(map(torch.detach, head.linear.parameters())) if head else _classifier(inputs),
    )  # fmt: skip
    low = precision_of(TEXT_ENCODER, inputs.release.precision) != "fp32"
    return Subject(
        inputs, "PyTorch fp32", *scans, answers, norms, *tokens, heads,
        _heads_of_graphs(inputs) if low else heads, model.vision.unit_codebook.T, model,
    )  # fmt: skip


def _by_graphs(inputs: ParityInputs, scans: _Scans, stages: Stages) -> Subject:
    precision = inputs.release.precision
    name, load, _ = cpu_runtime(precision)
    _, _, run_text = cpu_runtime(precision_of(TEXT_ENCODER, precision))
    vocabulary = inputs.file(TOKENIZER.name, "vocab.txt").read_text(encoding="utf-8")
    ids, mask = tokenised(inputs.sentences, vocabulary)
    found = []
    with stages.stage(f"Reference: {name}", len(scans[1])) as advance:
        size = TEXT_ENCODER.max_batch_size
        text = inputs.file(TEXT_ENCODER.name)
        parts = [slice(at, at + size) for at in range(0, len(ids), size)]
        bank = np.concatenate([run_text(text, ids[part], mask[part]) for part in parts])
        heads = replace(_heads_of_graphs(inputs), bank=torch.from_numpy(bank))
        vision = load(inputs.file(VISION.name))
        for each in scans[1]:
            outputs, tokens = vision.run(each)
            scores = heads.scores(outputs["IMAGE_EMBEDDING"])
            answer = StepAnswer.of({**outputs, **scores}, bank, F.normalize(tokens).numpy())
            found.append((answer, outputs["IMAGE_NORM"]))
            advance(1)
    answers, norms = zip(*found, strict=True)
    return Subject(
        inputs, f"{name} on the CPU, the repository's own graphs", *scans, answers, norms,
        ids, mask, heads, heads, F.normalize(heads.codebook.float(), dim=-1).T, None,
    )  # fmt: skip


def _heads_of_graphs(inputs: ParityInputs) -> Heads:
    relevance = _constants(inputs, RELEVANCE)
    bank = _constants(inputs, FINDINGS)["prompt_embedding"]
    return Heads(
        float(_constants(inputs, SCORE)["scale"]), F.normalize(bank), relevance["weights"],
        relevance["codebook"], _classifier(inputs),
    )  # fmt: skip


def _classifier(inputs: ParityInputs) -> tuple[Tensor, ...]:
    if CLASSFINE.name not in inputs.members.steps:
        return ()
    constants = _constants(inputs, CLASSFINE)
    return tuple(constants[name] for name in ("weight", "bias", "mean") if name in constants)


def _constants(inputs: ParityInputs, model: Model) -> dict[str, Tensor]:
    constants = onnx.load(inputs.file(model.name)).graph.initializer
    return {each.name: torch.tensor(onnx.numpy_helper.to_array(each)) for each in constants}
