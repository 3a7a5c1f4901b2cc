"""The model under measurement on CPU and device, its volumes, and the answers to compare with."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ctclip_bench.demo.codebook import CodeUsage
from ctclip_bench.gpu.made import base_chest, make_checkpoint, make_text_model, vary
from ctclip_bench.gpu.settings import Settings
from ctclip_bench.graphs.timing import Work, by_clock, in_turn, measure_on
from ctclip_bench.results.result import Parity
from ctclip_client.contract import PUBLISHED_GEOMETRY
from ctclip_client.doctor.phantom import draw_chest
from ctclip_client.prompts import sentences
from ctclip_client.volume import Volume
from ctclip_export.checkpoint import Checkpoint, TextModel, load_checkpoint, read_text_model
from ctclip_export.checkpoint.file import declared_random
from ctclip_export.model import CTCLIP, CTViT
from ctclip_export.parity.figures import least_cosine
from ctclip_export.parity.judge import BOUNDS, StepAnswer, bounds_for, judge
from ctclip_export.parity.reference import answer_in_pytorch
from ctclip_export.precision.typed_twin import typed
from ctclip_export.samples.phantom import chest_phantom
from ctclip_export.text.tokens import tokenised

ON_DEVICE, ON_CPU = "PyTorch float32 on the same device", "PyTorch float32 on the CPU"
_LIMIT_S = 5.0

Encode = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""VOXELS (B, 1, D, H, W) -> temporal tokens (B·N, T, W), embedding (B, E), codes (B, T, R, C)."""


def encoder(vision: CTViT) -> Encode:
    """The vision encoder's forward, with the tokens that its code search reads: no more work."""

    def encode(voxels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stages = vision.stages(voxels)
        return stages.temporal_tokens, stages.embedding, stages.codes

    return encode


class Subject:
    """Everything is made, or read, when it is first asked for, and then kept.

    So any phase can be the first one, in a process of its own.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = settings.device
        self.cuda = settings.device == "cuda"
        self.geometry = settings.geometry
        self.folder = settings.folder
        self._twins: dict[str, CTViT] = {}
        self._answers: dict[int, StepAnswer] = {}

    def tidy(self) -> None:
        """Give back the device's memory that nothing holds: others than torch need some, too."""
        if self.cuda:
            gc.collect()  # of sessions and graphs that refer to each other
            torch.cuda.empty_cache()

    def times(self, works: Mapping[str, Work], *, clock: bool = False) -> dict[str, list[float]]:
        """Milliseconds of each work, which take turns: by CUDA events on a GPU, by the clock
        elsewhere, and for what has a stream of its own and returns when it is done.
        """
        measure = by_clock if clock else measure_on(self.device)
        return in_turn(works, measure, rounds=self.settings.runs, warmup=2, limit_s=_LIMIT_S)

    @cached_property
    def chest(self) -> Tensor:
        """(1, 1, 120, 240, 240) on the device."""
        return base_chest(self.settings.ct).to(self.device)

    def volume(self, seed: int) -> Tensor:
        """VOXELS (1, 1, D, H, W) of a variation, on the device."""
        return vary(self.chest, seed, self.geometry.volume_shape)

    @cached_property
    def scan(self) -> Volume:
        """As scanners make them, 320 slices of 512², for the published geometry; a small one, as
        drawn as this one, for any other.
        """
        if self.geometry != PUBLISHED_GEOMETRY:
            return chest_phantom(self.geometry)
        coarse = draw_chest((80, 128, 128), (4.0, 2.8, 2.8), 0)
        voxels = coarse.voxels
        for axis in range(3):
            voxels = voxels.repeat(4, axis)
        return Volume.from_array(voxels, (1.0, 0.7, 0.7), coarse.rescale)

    @cached_property
    def text_model(self) -> TextModel:
        """Of --text-model, or one that is made."""
        folder = self.settings.text_model
        if folder is None:
            folder = self.folder / "text_model"
            make_text_model(folder, sentences(self.settings.findings), small=self.settings.small)
        return read_text_model(folder)

    @cached_property
    def made(self) -> CodeUsage | None:
        """How the codebook of a checkpoint spreads that is made now; None where one is there."""
        path = self.folder / "ctclip.pt"
        if self.settings.checkpoint or (path.is_file() and declared_random(path).is_file()):
            return None
        return make_checkpoint(path, self.chest, small=self.settings.small)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Of --against, or one that is made. Its model is the float32 reference, on the CPU."""
        _ = self.made
        path = self.settings.checkpoint or self.folder / "ctclip.pt"
        return load_checkpoint(path, self.text_model, self.geometry)

    @property
    def reference(self) -> CTCLIP:
        return self.checkpoint.model

    @cached_property
    def on_device(self) -> CTCLIP:
        """A copy of the reference on the device."""
        return copy.deepcopy(self.reference).to(self.device)

    def vision(self, precision: str) -> CTViT:
        """The vision encoder on the device, or its typed twin."""
        if precision == "fp32":
            return self.on_device.vision
        if precision not in self._twins:
            self._twins[precision] = typed(self.reference.vision, precision).to(self.device)
        return self._twins[precision]

    @cached_property
    def ids_and_mask(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the bank's sentences, (2F, L) each."""
        vocabulary = self.text_model.vocabulary_bytes.decode("utf-8")
        return tokenised(sentences(self.settings.findings), vocabulary)

    @cached_property
    def bank(self) -> Tensor:
        """Embeddings (2F, E) of the bank's sentences, on the device."""
        return self._texts(self.on_device, self.device)

    @cached_property
    def bank_on_cpu(self) -> Tensor:
        """The same by the reference on the CPU."""
        return self._texts(self.reference, "cpu")

    @torch.no_grad()
    def _texts(self, model: CTCLIP, device: str) -> Tensor:
        embeddings: Tensor = model.text(
            *(torch.from_numpy(each).to(device) for each in self.ids_and_mask)
        )
        return embeddings

    @torch.no_grad()
    def scores(self, image_embedding: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """LOGITS and PROBABILITIES of embeddings (V, E), by the reference and its bank."""
        logits, probabilities = self.reference.score(
            torch.from_numpy(image_embedding), self.bank.cpu()
        )
        return {"LOGITS": logits.numpy(), "PROBABILITIES": probabilities.numpy()}

    def expected(self, seed: int) -> StepAnswer:
        """The reference's answer for a variation, computed on the device."""
        if seed not in self._answers:
            self._answers[seed] = answer_in_pytorch(
                self.on_device, self.on_device.vision, self.bank, self.volume(seed)
            )
        return self._answers[seed]

    def answers(self, encoded: Iterable[Tensor]) -> list[StepAnswer]:
        """What an encoder in PyTorch says of each volume of a batch, see `Encode`; scores by the
        reference's own bank.
        """
        temporal, embedding, codes = encoded
        tokens = F.normalize(self.reference.vision.to_grid(temporal).float(), dim=-1)
        images = embedding.float().cpu().numpy()
        outputs = {"CODES": codes.cpu().numpy(), "IMAGE_EMBEDDING": images, **self.scores(images)}
        return [
            StepAnswer.of(
                {name: array[index : index + 1] for name, array in outputs.items()},
                tokens=tokens[index].flatten(0, 2).cpu().numpy(),
            )
            for index in range(len(codes))
        ]

    def verdict(
        self, precision: str, answers: Sequence[StepAnswer], seeds: Sequence[int]
    ) -> Parity:
        """By the judge of `ctclip parity`: answers for variations, against the reference's."""
        bounds = bounds_for(precision, math.prod(self.reference.config.vision.token_shape))
        expected = [self.expected(seed) for seed in seeds]
        codebook = self.reference.vision.unit_codebook.T
        found = judge(precision, answers, expected, bounds, codebook=codebook)
        return Parity.of(found, f"{ON_DEVICE}, TF32 off")

    def text_parity(self, embeddings: Tensor) -> Parity:
        """Of embeddings (2F, E) of the bank's sentences that a text encoder made on the device."""
        cosine = least_cosine(embeddings.float().cpu().numpy(), self.bank_on_cpu.numpy())
        return parity_if(cosine >= BOUNDS["fp32"].cosine, ON_CPU, cosine=cosine)


def parity_if(passed: bool, against: str, **figures: Any) -> Parity:
    """A verdict on what the judge has no rule for."""
    return Parity("PASS" if passed else "FAIL", against, **figures)
