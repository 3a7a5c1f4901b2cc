"""The model under measurement on CPU and device, its volumes, and the answers to compare with."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_bench.gpu.chest import base_chest, vary
from ctclip_bench.gpu.settings import Settings
from ctclip_bench.results.result import Parity
from ctclip_client.prompts import sentences
from ctclip_export.checkpoint import Checkpoint, TextModel, load_checkpoint, read_text_model
from ctclip_export.checkpoint.file import declared_random
from ctclip_export.model import CTCLIP, CTViT
from ctclip_export.parity.judge import StepAnswer, bounds_for, judge
from ctclip_export.parity.reference import answer_in_pytorch
from ctclip_export.precision.typed_twin import typed
from ctclip_export.text.tokens import tokenised

JUDGED = 4
"""Variations of the chest that precisions are judged on; seeds count from 0."""
REFERENCE = "PyTorch float32 on the same device, TF32 off"


class Subject:
    """Everything is made, or read, when it is first asked for, and then kept.

    So any phase can be the first one, in a process of its own.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = settings.device
        self.geometry = settings.geometry
        self.folder = settings.folder
        self._twins: dict[str, CTViT] = {}
        self._answers: dict[int, StepAnswer] = {}

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def tidy(self) -> None:
        """Give back the device's memory that nothing holds: others than torch need some, too."""
        if self.cuda:
            gc.collect()  # of sessions and graphs that refer to each other
            torch.cuda.empty_cache()

    @cached_property
    def chest(self) -> Tensor:
        """(1, 1, 120, 240, 240) on the device."""
        return base_chest(self.settings.ct).to(self.device)

    def volume(self, seed: int) -> Tensor:
        """VOXELS (1, 1, D, H, W) of a variation, on the device."""
        return vary(self.chest, seed, self.geometry.volume_shape)

    @property
    def checkpoint_file(self) -> Path:
        return self.settings.checkpoint or self.folder / "ctclip.pt"

    @property
    def is_made(self) -> bool:
        """Whether the checkpoint, and what declares it random, is there."""
        path = self.checkpoint_file
        return path.is_file() and (
            self.settings.checkpoint is not None or declared_random(path).is_file()
        )

    @cached_property
    def text_model(self) -> TextModel:
        """Of --text-model, or one that is made."""
        folder = self.settings.text_model
        if folder is None:
            from ctclip_bench.gpu.made import make_text_model

            folder = self.folder / "text_model"
            texts = sentences(self.settings.findings)
            make_text_model(folder, texts, small=self.settings.small)
        return read_text_model(folder)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Of --against, or one that is made. Its model is the float32 reference, on the CPU."""
        if not self.is_made:
            from ctclip_bench.gpu.made import make_checkpoint

            make_checkpoint(self.checkpoint_file, self.chest, small=self.settings.small)
        return load_checkpoint(self.checkpoint_file, self.text_model, self.geometry)

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
        ids, mask = (torch.from_numpy(array).to(self.device) for array in self.ids_and_mask)
        with torch.no_grad():
            bank: Tensor = self.on_device.text(ids, mask)
        return bank

    @cached_property
    def bank_on_cpu(self) -> Tensor:
        """The same by the reference on the CPU."""
        ids, mask = (torch.from_numpy(array) for array in self.ids_and_mask)
        with torch.no_grad():
            bank: Tensor = self.reference.text(ids, mask)
        return bank

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

    def verdict(
        self,
        precision: str,
        answers: Sequence[StepAnswer],
        seeds: Sequence[int],
        *,
        similarity_error: float = 0.0,
    ) -> Parity:
        """By the judge of `ctclip parity`: answers for variations, against the reference's.

        similarity_error: of answers that do not show their tokens, see `judge`.
        """
        return Parity.of(
            judge(
                precision,
                answers,
                [self.expected(seed) for seed in seeds],
                bounds_for(precision, math.prod(self.reference.config.vision.token_shape)),
                codebook=self.reference.vision.unit_codebook.T,
                similarity_error=similarity_error,
            ),
            REFERENCE,
        )
