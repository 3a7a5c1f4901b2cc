"""What graphs are measured with: real volumes, prepared once, and what the reference answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ctclip_bench.graphs.heads import Heads, heads_of_checkpoint, heads_of_graphs
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_client import Volume
from ctclip_client.contract import PREPROCESS, TEXT_ENCODER, TOKENIZER, VISION
from ctclip_client.system.progress import Stages
from ctclip_export.checkpoint import Checkpoint, load_checkpoint, read_text_model
from ctclip_export.graphs.run import run_preprocess
from ctclip_export.model import CTCLIP
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.judge import StepAnswer
from ctclip_export.parity.reference import answer_in_pytorch
from ctclip_export.parity.runtimes import cpu_runtime
from ctclip_export.precision.choices import precision_of
from ctclip_export.text.tokens import Ids, tokenised


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
    with stages.stage("Scans: read"):
        volumes = [scan.volume() for scan in inputs.scans]
    if inputs.checkpoint is None or inputs.text_model is None:
        return _by_graphs(inputs, volumes, stages)
    with stages.stage("Checkpoint: read"):
        text_model = read_text_model(inputs.text_model)
        loaded = load_checkpoint(inputs.checkpoint, text_model, inputs.release.geometry)
    tokens = tokenised(inputs.sentences, text_model.vocabulary_bytes.decode("utf-8"))
    return _by_checkpoint(inputs, loaded, tokens, volumes, stages)


@torch.no_grad()
def _by_checkpoint(
    inputs: ParityInputs, loaded: Checkpoint, tokens: tuple[Ids, Ids],
    volumes: Sequence[Volume], stages: Stages,
) -> Subject:  # fmt: skip
    model, geometry, (ids, mask) = loaded.model.eval(), inputs.release.geometry, tokens
    voxels, answers, norms = [], [], []
    with stages.stage("Reference: PyTorch", len(volumes)) as advance:
        bank = model.text(torch.from_numpy(ids), torch.from_numpy(mask))
        for volume in volumes:
            prepared = preprocess(volume.voxels, volume.spacing_mm, volume.rescale, geometry)
            answer = answer_in_pytorch(model, model.vision, bank, prepared)
            codes = torch.from_numpy(answer.codes)[None]
            _, norm = model.vision.project(F.embedding(codes, model.vision.codebook))
            voxels.append(prepared.numpy())
            answers.append(answer)
            norms.append(norm.numpy())
            advance(1)
    heads = heads_of_checkpoint(model, bank, loaded.classifier, inputs)
    low = precision_of(TEXT_ENCODER, inputs.release.precision) != "fp32"
    served = heads_of_graphs(inputs) if low else heads
    return Subject(
        inputs, "PyTorch fp32", tuple(volumes), tuple(voxels), tuple(answers), tuple(norms),
        ids, mask, heads, served, model.vision.unit_codebook.T, model,
    )  # fmt: skip


def _by_graphs(inputs: ParityInputs, volumes: Sequence[Volume], stages: Stages) -> Subject:
    precision = inputs.release.precision
    name, load, _ = cpu_runtime(precision)
    _, _, run_text = cpu_runtime(precision_of(TEXT_ENCODER, precision))
    vocabulary = inputs.file(TOKENIZER.name, "vocab.txt").read_text(encoding="utf-8")
    ids, mask = tokenised(inputs.sentences, vocabulary)
    voxels, answers, norms = [], [], []
    with stages.stage(f"Reference: {name}", len(volumes)) as advance:
        size = TEXT_ENCODER.max_batch_size
        text = inputs.file(TEXT_ENCODER.name)
        parts = [slice(at, at + size) for at in range(0, len(ids), size)]
        bank = np.concatenate([run_text(text, ids[part], mask[part]) for part in parts])
        heads = replace(heads_of_graphs(inputs), bank=torch.from_numpy(bank))
        vision = load(inputs.file(VISION.name))
        for volume in volumes:
            prepared = run_preprocess(inputs.file(PREPROCESS.name), volume)
            outputs, tokens = vision.run(prepared)
            scores = heads.scores(outputs["IMAGE_EMBEDDING"])
            answers.append(StepAnswer.of({**outputs, **scores}, bank, F.normalize(tokens).numpy()))
            voxels.append(prepared)
            norms.append(outputs["IMAGE_NORM"])
            advance(1)
    unit = F.normalize(heads.codebook.float(), dim=-1)
    against = f"{name} on the CPU, the repository's own graphs"
    return Subject(
        inputs, against, tuple(volumes), tuple(voxels), tuple(answers), tuple(norms), ids, mask,
        heads, heads, unit.T, None,
    )  # fmt: skip
